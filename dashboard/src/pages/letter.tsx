// One dead letter: why it died, what it says, and another try with or without another body.
import { useState } from "preact/hooks";
import { type WholeLetter } from "../api";
import { go, route, to } from "../route";
import { act, Act, At, Badge, Facts, Json, Loaded, Panel, sure, useAsked } from "../ui";

function Editor({ letter }: { letter: WholeLetter }) {
  const whole = JSON.stringify(letter.body, null, 2);
  const [text, setText] = useState(whole);
  let fault = "";
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    fault = (error as Error).message;
  }
  const isEdited = text !== whole;
  const retry = async () => {
    const said = isEdited ? "It is ready again, with another body" : "It is ready again";
    if (await act(`letters/${letter.number}`, isEdited ? { action: "retry", body } : { action: "retry" }, said)) go(to("message", letter.id));
  };
  const discard = async () => {
    if (!(await sure("Discard this letter?", "The message is deleted. This cannot be undone.", "Discard"))) return;
    if (await act(`letters/${letter.number}`, { action: "discard" }, "It is discarded")) go(to("failures"));
  };
  return (
    <Panel title="Body">
      <textarea aria-label="Body" aria-invalid={fault !== ""} aria-describedby="fault" spellcheck={false} rows={Math.min(24, whole.split("\n").length + 1)} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      <p id="fault" class="note hot" role="status">
        {fault || "\u00a0"}
      </p>
      <div class="buttons">
        <Act tone="danger" run={discard}>
          Discard
        </Act>
        <Act tone="primary" run={retry} disabled={fault !== ""}>
          {isEdited ? "Retry with this body" : "Retry"}
        </Act>
      </div>
    </Panel>
  );
}

export function LetterPage() {
  const asked = useAsked<WholeLetter & { fingerprint?: string }>(`letters/${route.value.rest}`, 3600);
  return (
    <Loaded asked={asked}>
      {(letter) => (
        <div class="columns even">
          <div>
            <Panel title={letter.type} aside={<Badge state="dead" />}>
              <p class="mono dim id">{letter.id}</p>
              <Facts
                facts={[
                  ["Why", letter.reason],
                  ["Queue", <a href={to("queues", letter.queue)}>{letter.queue}</a>],
                  ["Died", <At at={letter.died_at} />],
                  ["Attempts", String(letter.attempts)],
                  ["Deaths", letter.deaths ? `${letter.deaths} workers died while they ran it` : null],
                  ["Cause", letter.fingerprint && <a href={to("failures", letter.fingerprint)}>all that died of the same</a>],
                  ["Life", <a href={to("message", letter.id)}>the whole life of this message</a>],
                ]}
              />
            </Panel>
            <Panel title="Error">
              <Json value={letter.traceback ?? letter.error ?? "No error was told"} label="Error" />
            </Panel>
            {(letter.history?.length ?? 0) > 0 && (
              <Panel title="Attempts that failed">
                <ol class="line">
                  {letter.history!.map(([at, attempt, error]) => (
                    <li key={at} class="dead">
                      <span class="what">Attempt {attempt}</span>
                      <span class="dim num">
                        <At at={at} />
                      </span>
                      <span class="text">{error}</span>
                    </li>
                  ))}
                </ol>
              </Panel>
            )}
          </div>
          <div>
            <Editor key={letter.number} letter={letter} />
            {Object.keys(letter.headers ?? {}).length > 0 && (
              <Panel title="Headers">
                <Facts facts={Object.entries(letter.headers!).map(([key, value]) => [key, <span class="mono">{String(value)}</span>])} />
              </Panel>
            )}
          </div>
        </div>
      )}
    </Loaded>
  );
}
