/** Tokens from logits: the arg-max of logits over temperature, less risk, plus Gumbel noise (Maddison et al. 2014). */

/** Uniform draws of one step: `at(index)` is in (0, 1), the same for the same index. */
export interface Draws {
  at(index: number): number;
}

/** Source of the draws: a seed, and how often it was asked. */
export class Source {
  private readonly seed: number;
  private asked = 0;

  constructor(seed: number) {
    this.seed = seed;
  }

  next(): Draws {
    const key = scramble(this.seed ^ scramble(this.asked++));
    return { at: (index) => (scramble(key + Math.imul(index, 0x9e3779b9)) + 0.5) / 2 ** 32 };
  }
}

/** A bijection of 32-bit integers whose output looks random: the finaliser of MurmurHash3 (Appleby). */
function scramble(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** Risk of each choice, as in `playloom.inference.sampling`, and its weight. */
export interface Risk {
  values: Float32Array;
  weight: number;
}

const COLDEST = 1e-6;
/** The greatest difference of two Gumbel draws: from uniform ones of 32 bits they are in -3.14 to 22.9. */
const SPREAD = 26.1;

/**
 * Returns the choice of one slot, in single precision as the other backends have it.
 *
 * @param logits of its choices.
 * @param first index of its first draw; one draw a choice.
 * @param risk of its choices; null: they have none.
 */
export function choose(
  logits: Float32Array,
  temperature: number,
  draws: Draws,
  first: number,
  risk: Risk | null = null,
): number {
  const greedy = temperature === 0;
  const divisor = greedy ? 1 : Math.fround(Math.max(temperature, COLDEST));
  const scaled = logits.map((logit) => logit / divisor);
  if (risk && !greedy) {
    const weight = Math.fround(risk.weight);
    risk.values.forEach((value, index) => (scaled[index] = (scaled[index] ?? 0) - Math.fround(weight * value)));
  }
  let likeliest = 0;
  scaled.forEach((value, index) => {
    if (value > (scaled[likeliest] ?? 0)) likeliest = index;
  });
  if (greedy) return likeliest;
  const least = (scaled[likeliest] ?? 0) - SPREAD;
  let [best, chosen] = [-Infinity, likeliest];
  scaled.forEach((value, index) => {
    if (value < least) return; // no draw can make it the greatest
    const drawn = Math.fround(-Math.log(draws.at(first + index)));
    const noisy = Math.fround(value + Math.fround(-Math.log(drawn)));
    if (noisy > best) [best, chosen] = [noisy, index];
  });
  return chosen;
}
