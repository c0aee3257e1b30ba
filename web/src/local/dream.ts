/** One dream: the row of tokens of its open step, and the passes that fill it. */
import { choose, type Risk, type Source } from "./sampling";
import { type Chunk, NO_TOKEN, type Transformer } from "./transformer";

/** Temperatures of frames and actions; 0 takes the likeliest token. */
export interface Sampling {
  temperature: number;
  actionTemperature: number;
  /** Weight of the risk of a frame's codes; 0: none. */
  riskWeight: number;
}

export class Dream {
  private readonly transformer: Transformer;
  private readonly source: Source;
  private readonly tokens: Int32Array;
  private previous: number[];
  /** Complete steps: the number of the open one. */
  private step = 0;

  constructor(transformer: Transformer, source: Source) {
    const { columns, action_slots } = transformer.description.step;
    this.transformer = transformer;
    this.source = source;
    this.tokens = new Int32Array(columns).fill(NO_TOKEN);
    this.previous = Array<number>(action_slots).fill(NO_TOKEN);
  }

  /** Opens a step with a given frame. */
  async giveFrame(codes: ArrayLike<number>): Promise<void> {
    await this.open();
    this.tokens.set(codes);
    await this.transformer.run(this.transformer.givenImage, this.step, this.tokens);
  }

  /** Opens a step with a generated frame; returns its codes. */
  async dreamFrame({ temperature, riskWeight }: Sampling): Promise<number[]> {
    await this.open();
    const { vocabulary, step } = this.transformer.description;
    const draws = this.source.next();
    const span = (): [number, number] => [0, vocabulary.codes];
    for (const chunk of this.transformer.passes.slice(0, step.image_passes))
      await this.draw(
        chunk,
        span,
        (logits, slot, risk) => choose(logits, temperature, draws, slot * vocabulary.codes, risk),
        riskWeight,
      );
    return Array.from(this.tokens.subarray(0, step.image_slots));
  }

  /** Completes the open step with a given action, in values. */
  async giveAction(values: readonly number[]): Promise<void> {
    const { image_slots } = this.transformer.description.step;
    this.tokens.set(
      this.offsets.map((offset, index) => offset + (values[index] ?? 0)),
      image_slots,
    );
    await this.transformer.run(this.transformer.givenAction, this.step, this.tokens);
    this.commit();
  }

  /** Completes the open step with a sampled action; returns its values. */
  async dreamAction({ actionTemperature }: Sampling): Promise<number[]> {
    const { vocabulary, step } = this.transformer.description;
    const [draws, most] = [this.source.next(), Math.max(...vocabulary.action_sizes)];
    const span = (slot: number): [number, number] => {
      const first = this.offsets[slot - step.image_slots] ?? 0;
      return [first, first + (vocabulary.action_sizes[slot - step.image_slots] ?? 0)];
    };
    for (const chunk of this.transformer.passes.slice(step.image_passes))
      await this.draw(chunk, span, (logits, slot) =>
        choose(logits, actionTemperature, draws, (slot - step.image_slots) * most),
      );
    const values = this.action.map((id, index) => id - (this.offsets[index] ?? 0));
    this.commit();
    return values;
  }

  private get offsets(): readonly number[] {
    return this.transformer.description.vocabulary.action_offsets;
  }

  private get action(): number[] {
    const { image_slots, action_slots } = this.transformer.description.step;
    return Array.from(this.tokens.subarray(image_slots, image_slots + action_slots));
  }

  private async open(): Promise<void> {
    this.previous = this.action;
    this.tokens.copyWithin(this.tokens.length - 1, this.tokens.length - 3, this.tokens.length - 2);
    await this.transformer.open(this.step, this.previous);
  }

  private commit(): void {
    this.transformer.commit(this.step);
    this.step += 1;
  }

  /** Runs a pass and fills the slots that it predicts. */
  private async draw(
    chunk: Chunk,
    span: (slot: number) => [number, number],
    pick: (logits: Float32Array, slot: number, risk: Risk | null) => number,
    riskWeight = 0,
  ): Promise<void> {
    const logits = await this.transformer.run(chunk, this.step, this.tokens);
    const width = logits.length / Math.max(1, chunk.slots.length);
    const risks = riskWeight ? await this.transformer.risks(chunk, logits) : null;
    const { codes } = this.transformer.description.vocabulary;
    chunk.slots.forEach((slot, row) => {
      const [first, last] = span(slot);
      const risk = risks && { values: risks.subarray(row * codes, (row + 1) * codes), weight: riskWeight };
      this.tokens[slot] = first + pick(logits.subarray(row * width + first, row * width + last), slot, risk);
    });
  }
}
