// Passes by turns of a few runs, the ruler beside each turn, round after round until every median is known as precisely as asked for:
// what the machine does for a while then happens to all of them, and for each in one stretch of several.

import { badArgument } from '../src/errors.ts';
import { letSignalsIn, type Measured, type Timing, timeOnce, timingOf, warmUp } from './measure.ts';
import { type Estimate, estimateDrifting, FEWEST_VALUES, median, sum } from './statistics.ts';

export interface RoundOptions {
  /** Total of a case's measured times to reach, in milliseconds. */
  readonly minTimeMs: number;
  /** Total at which a case ends, precise or not. */
  readonly maxTimeMs: number;
  /** The width of a median's interval to reach, in percent of the median. */
  readonly precision: number;
}

/** How many times the least time a case takes at most, unless told. */
const LONGEST = 5;

export function withDefaults({
  minTimeMs = 2000,
  maxTimeMs = LONGEST * minTimeMs,
  precision = 2,
}: Partial<RoundOptions>): RoundOptions {
  return { minTimeMs, maxTimeMs, precision };
}

/**
 * @param maxTime what the sentence calls it
 * @throws MoeError ERR_INVALID_ARGUMENT
 */
export function checkTimes({ minTimeMs, maxTimeMs }: RoundOptions, maxTime: string): void {
  if (maxTimeMs >= minTimeMs) return;
  const seconds = (ms: number) => `${ms / 1000} s`;
  throw badArgument(
    'ERR_INVALID_ARGUMENT',
    maxTime,
    `no less than the least time, ${seconds(minTimeMs)}`,
    seconds(maxTimeMs),
  );
}

export interface RoundTiming extends Timing {
  /** The time as a multiple of what the ruler took beside it, with its interval; of the CPU alone. */
  readonly rulers?: number;
  readonly rulersLow?: number;
  readonly rulersHigh?: number;
  /** The time ran out before the median was as precise as asked for. */
  readonly imprecise?: true;
}

export interface Contestant {
  readonly pass: Measured;
  /** Milliseconds of fixed work, now. */
  readonly ruler?: () => number;
}

/** So short that the ruler is never far. */
const TURN_MS = 25;
/** In the least time, so that each stretch has some. */
const LEAST_TURNS = 4 * FEWEST_VALUES;
/** Of a turn's time. */
const RULER_SHARE = 0.5;
/** Of the least time, after which it is asked again whether the median is precise. */
const CHECK_SHARE = 0.25;

/**
 * Yields each contestant with its timing, in their order: as soon as that, and those before, are precise enough or out of time.
 * @param onNext called when another contestant is the first that has not been yielded
 */
export async function* measureInRounds<C extends Contestant>(
  contestants: readonly C[],
  options: RoundOptions,
  onNext: (first: C) => void = () => {},
): AsyncGenerator<readonly [C, RoundTiming]> {
  const racers = contestants.map(contestant => new Racer(contestant, options));
  for (const { contestant } of racers) warmUp(contestant.pass);
  for (const [i, racer] of racers.entries()) {
    onNext(racer.contestant);
    while (!racer.finished) {
      for (const each of racers.slice(i)) {
        await letSignalsIn();
        if (!each.finished) each.takeTurn();
      }
    }
    yield [racer.contestant, racer.timing()];
  }
}

class Racer<C extends Contestant> {
  readonly contestant: C;
  readonly #options: RoundOptions;
  readonly #turns: (readonly number[])[] = [];
  readonly #rulers: number[] = [];
  #totalMs = 0;
  #nextCheckMs: number;
  #finished = false;

  constructor(contestant: C, options: RoundOptions) {
    this.contestant = contestant;
    this.#options = options;
    this.#nextCheckMs = options.minTimeMs;
  }

  /** The mean of a turn beside that of the ruler: an interruption that hits the one only in part hits the other so too. */
  takeTurn(): void {
    const { pass, ruler } = this.contestant;
    const times = runsOf(Math.min(TURN_MS, this.#options.minTimeMs / LEAST_TURNS), () => timeOnce(pass));
    const turnMs = sum(times);
    this.#totalMs += turnMs;
    this.#turns.push(times);
    if (ruler) this.#rulers.push(mean(times) / mean(runsOf(RULER_SHARE * turnMs, ruler)));
    this.#judge();
  }

  get finished(): boolean {
    return this.#finished;
  }

  #judge(): void {
    if (this.#turns.length < FEWEST_VALUES || this.#totalMs < this.#nextCheckMs) return;
    this.#nextCheckMs = this.#totalMs + CHECK_SHARE * this.#options.minTimeMs;
    this.#finished = this.#totalMs >= this.#options.maxTimeMs || this.#isPrecise();
  }

  timing(): RoundTiming {
    const { median, low, high } = this.#estimate();
    return {
      ...timingOf(this.#turns.flat()),
      ...{ medianMs: median, lowMs: low, highMs: high },
      ...(!this.#isPrecise() && { imprecise: true }),
      ...(this.#rulers.length > 0 && inRulers(estimateDrifting(this.#rulers))),
    };
  }

  #isPrecise(): boolean {
    const { median, low, high } = this.#estimate();
    return 100 * (high - low) <= this.#options.precision * median;
  }

  #estimate(): Estimate {
    return estimateDrifting(this.#turns.map(median));
  }
}

function inRulers({ median, low, high }: Estimate) {
  return { rulers: median, rulersLow: low, rulersHigh: high };
}

/** One at least. */
function runsOf(leastMs: number, time: () => number): number[] {
  const times = [time()];
  for (let total = times[0]!; total < leastMs; total += times.at(-1)!) times.push(time());
  return times;
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}
