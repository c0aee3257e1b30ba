/** The page's few icons, drawn here; always beside a word or a label, so hidden from screen readers. */

const PATHS = {
  pause: "M8 5v14M16 5v14",
  play: "M8 5l11 7-11 7z",
  step: "M6 5l9 7-9 7zM19 5v14",
  reset: "M4 5v5h5M4.600 10a8 8 0 1 1-.4 5",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  leave: "M15 5H5v14h10M11 12h9M17 9l3 3-3 3",
  close: "M6 6l12 12M18 6L6 18",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Wordmark() {
  return (
    <span className="wordmark">
      <svg viewBox="0 0 32 32" aria-hidden="true">
        <path className="warp" d="M8 6v20M16 6v4.500M16 21.500v4.500M24 6v20" />
        <path className="weft" d="M12 16h8M4 16h0M28 16h0" />
        <path className="weft" d="M3.5 11h1M11.5 11h9M27.5 11h1M3.5 21h1M11.5 21h9M27.5 21h1" />
      </svg>
      playloom
    </span>
  );
}
