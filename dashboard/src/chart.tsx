// Curves with axes, drawn by uPlot in the colours of the page.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Curve {
  label: string;
  tone: string;
  points: (number | null)[];
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function Chart({ at, curves, label, height = 180, stepped }: { at: number[]; curves: Curve[]; label: string; height?: number; stepped?: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data: uPlot.AlignedData = [at, ...curves.map((curve) => curve.points)];
  const shape = curves.map((curve) => curve.label).join();
  useEffect(() => {
    const place = box.current!;
    const axis = { stroke: () => colour("dim"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const isDays = at.length > 1 && at.at(-1)! - at[0]! > 2 * 86400;
    const hours = new Intl.DateTimeFormat("en-GB", isDays ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit" });
    const draw = () =>
      new uPlot(
        {
          width: place.clientWidth,
          height,
          padding: [8, 18, 0, 0],
          legend: { show: false },
          cursor: { y: false, points: { size: 6 } },
          scales: { y: { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.1)] } },
          axes: [{ ...axis, size: 28, space: 70, values: (_, ticks) => ticks.map((one) => hours.format(one * 1000)) }, { ...axis, size: 44 }],
          series: [
            {},
            ...curves.map((curve) => ({
              label: curve.label,
              stroke: () => colour(curve.tone),
              fill: () => `${colour(curve.tone)}1f`,
              width: 1.75,
              points: { show: false },
              ...(stepped && uPlot.paths.stepped ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
            })),
          ],
        },
        data,
        place,
      );
    plot.current = draw();
    const watched = new ResizeObserver(() => plot.current?.setSize({ width: place.clientWidth, height }));
    watched.observe(place);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => plot.current?.redraw();
    scheme.addEventListener("change", redraw);
    addEventListener("theme", redraw);
    return () => {
      watched.disconnect();
      scheme.removeEventListener("change", redraw);
      removeEventListener("theme", redraw);
      plot.current?.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data));
  const newest = curves.map((curve) => `${curve.label} ${(curve.points.findLast((one) => one !== null) ?? 0).toFixed(1)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        {curves.map((curve) => (
          <span key={curve.label} class={`key ${curve.tone}`}>
            {curve.label}
          </span>
        ))}
      </figcaption>
      <div ref={box} role="img" aria-label={`${label}: ${newest}`} style={{ height: `${height}px` }} />
    </figure>
  );
}
