/** How pictures of one shape are laid out so that they are as large as the place allows. */

export interface Grid {
  columns: number;
  /** Of one picture, in pixels. */
  width: number;
}

export interface Place {
  width: number;
  height: number;
  /** Between pictures, and what stands under each of them. */
  gap: number;
  caption: number;
}

/** The number of columns with the largest pictures; of equals the one with fewer rows. */
export function gridOf(count: number, shape: number, { width, height, gap, caption }: Place): Grid {
  let best: Grid = { columns: 1, width: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const wide = (width - gap * (columns - 1)) / columns;
    const high = ((height - gap * (rows - 1)) / rows - caption) * shape;
    const size = Math.floor(Math.min(wide, high));
    if (size >= best.width) best = { columns, width: size };
  }
  return { columns: best.columns, width: Math.max(1, best.width) };
}
