// Figures, times and names as people read them; the same rules as the command's (fleet/cli/output.py).

export const NONE = "–"; // no figure: not measured, not known

// Three significant digits, without an exponent where people would not want one.
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size < 0.001) return value.toExponential(1);
  return value.toFixed(size < 1 ? 3 : size < 10 ? 2 : 1);
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) [value, power] = [value / 1024, power + 1];
  return `${power ? value.toFixed(1) : value} ${units[power]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 100) return `${figure(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export const clock = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");

export const day = (unixSeconds) => new Date(unixSeconds * 1000).toLocaleString("en-GB");

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const kind = (device) => (device.hollow ? "hollow" : device.simulated ? "simulated" : "real");

// "layers 0–9", or nothing for a stage of none.
export const layers = (stage) =>
  stage.stop_layer > stage.first_layer + 1
    ? `layers ${stage.first_layer}–${stage.stop_layer - 1}`
    : stage.stop_layer > stage.first_layer
      ? `layer ${stage.first_layer}`
      : "no layer";

const NUMBERS = new Intl.Collator("en", { numeric: true });

// "dev-2" before "dev-10".
export const byName = (one, other) => NUMBERS.compare(one, other);

export function sum(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((total, value) => total + value, 0) : null;
}
