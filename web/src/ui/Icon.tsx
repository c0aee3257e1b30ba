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
  back: "M18 6l-9 7 9 7zM5 6v14",
  loop: "M17 3l3 3-3 3M20 6H8a4 4 0 0 0-4 4v1M7 21l-3-3 3-3M4 18h12a4 4 0 0 0 4-4v-1",
  branch: "M6 4v16M6 14c0-6 12-3 12-9M15 7l3-3 3 3",
  beside: "M4 5h7v14H4zM14 5h6v14h-6z",
  star: "M12 4l2.500 5.200 5.700.8-4.100 4 1 5.700-5.100-2.700-5.100 2.700 1-5.700-4.100-4 5.700-.8z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  note: "M5 4h14v11l-5 5H5zM14 20v-5h5",
  flip: "M12 4v16M9 8l-5 8h5zM15 8l5 8h-5z",
  minus: "M6 12h12",
  plus: "M6 12h12M12 6v12",
  check: "M5 13l5 5 9-11",
  record: "M12 6a6 6 0 1 0 .01 0z",
  keys: "M3 7h18v11H3zM7 11h.01M11 11h.01M15 11h.01M8 15h8",
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
