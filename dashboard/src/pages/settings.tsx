// What this browser remembers, who is looking, and what is connected.
import { hasToken, leave } from "../api";
import { me, overview } from "../live";
import { chosen } from "../theme";
import { Facts, Panel } from "../ui";

const THEMES = ["system", "light", "dark"];

export function Settings() {
  const told = overview.value;
  return (
    <div class="columns even">
      <Panel title="Appearance">
        <div class="choice" role="group" aria-label="Appearance">
          {THEMES.map((one) => (
            <button type="button" key={one} aria-pressed={chosen.value === one} onClick={() => (chosen.value = one)}>
              {one}
            </button>
          ))}
        </div>
      </Panel>
      <Panel title="Access" aside={hasToken() && <button type="button" onClick={leave}>Forget the token</button>}>
        <Facts
          facts={[
            ["You are", me.value.name || "a user of this machine"],
            ["You may", me.value.permissions.join(", ")],
            ["Token", hasToken() ? "kept in this tab until it is closed" : "none is needed"],
          ]}
        />
      </Panel>
      {told && (
        <Panel title="Chappe">
          <Facts
            facts={[
              ["Application", told.application],
              ["Version", told.version],
              ["Where", <span class="mono">{told.engine.path}</span>],
              ["SQLite", told.engine.sqlite],
              ["PostgreSQL", told.engine.postgres],
              ["Broker", told.engine.broker],
              ["API", <a href="../openapi.json">openapi.json</a>],
            ]}
          />
        </Panel>
      )}
    </div>
  );
}
