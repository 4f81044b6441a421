// Runners by turns, A B C A B C, so that whatever the machine does meanwhile happens to all of them.

import { setTimeout } from 'node:timers/promises';
import { FEWEST_VALUES } from '../statistics.ts';

export interface TurnOptions {
  readonly rounds: number;
  /** How long each runner is measured, all rounds together; each runs once a round at least. */
  readonly minTimeMs: number;
}

/** What is run by turns. */
export interface Runner {
  /** Runs that often, one after the other, and returns how long each took. */
  run(times: number): Promise<readonly number[]>;
}

/** After the run that is checked; the faster one says how many runs make a turn. */
const WARM_UP_RUNS = 2;
/** Between turns: threads of the last one that still wait for work, spinning, have gone to sleep by then. */
const REST_MS = 20;

/**
 * Of each runner the times of each turn. A turn takes its share of `minTimeMs`, or one run; a runner whose one run takes longer than
 * `minTimeMs` sits out all but the first rounds, as many as an interval needs. Nobody takes more turns than the first runner, whom
 * the others are compared with.
 */
export async function takeTurns(
  runners: readonly Runner[],
  { rounds, minTimeMs }: TurnOptions,
): Promise<(readonly number[])[][]> {
  const plans: { runner: Runner; times: number; rounds: number; turns: (readonly number[])[] }[] = [];
  for (const runner of runners) {
    const warm = Math.min(...(await runner.run(WARM_UP_RUNS)));
    const most = plans[0]?.rounds ?? rounds;
    plans.push({
      runner,
      times: Math.max(1, Math.round(minTimeMs / rounds / warm)),
      rounds: warm > minTimeMs ? Math.min(most, FEWEST_VALUES) : most,
      turns: [],
    });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { runner, times, turns } of plans.filter(plan => round < plan.rounds)) {
      await setTimeout(REST_MS);
      turns.push(await runner.run(times));
    }
  }
  return plans.map(({ turns }) => turns);
}
