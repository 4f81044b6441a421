// How experts are used, summed over batches, and the words and bars that say so.

import type { Losses } from './model.ts';

export class Usage {
  readonly counts: number[];
  tokens = 0;
  rows = 0;

  constructor(experts: number) {
    this.counts = new Array<number>(experts).fill(0);
  }

  add({ tokens, counts, rows }: Pick<Losses, 'tokens' | 'counts' | 'rows'>): void {
    this.counts.forEach((count, e) => {
      this.counts[e] = count + counts[e]!;
    });
    this.tokens += tokens;
    this.rows += rows;
  }

  /** Of the slots, those that chose each expert. */
  get shares(): number[] {
    const slots = this.counts.reduce((a, b) => a + b, 0);
    return this.counts.map(count => (slots > 0 ? count / slots : 0));
  }

  /** How far the most used expert is above the mean (MaxVio, arXiv 2408.15664). */
  get maxViolation(): number {
    return Math.max(...this.shares) * this.counts.length - 1;
  }

  describe(): string[] {
    const { shares } = this;
    const used = shares.filter(share => share > 0).length;
    return [
      `${used} of ${shares.length} experts used, ${(this.rows / this.tokens).toFixed(2)} per byte`,
      `max violation ${this.maxViolation.toFixed(2)}`,
      ...shares.map((share, expert) => {
        const bar = '█'.repeat(Math.round(100 * share));
        return `  expert ${expert}  ${percent(share).padStart(5)} %  ${bar}`;
      }),
    ];
  }
}

export function percent(share: number): string {
  return (100 * share).toFixed(1);
}
