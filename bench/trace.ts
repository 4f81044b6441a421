// Recorded runs as a file that chrome://tracing and ui.perfetto.dev open: "Trace Event Format", complete events in microseconds.

import { caseKey } from './campaign.ts';
import type { Profile } from './profile.ts';
import type { RecordedCall } from './spans.ts';

/** A viewer of more has nothing to show that it would not show of these. */
export const TRACED_RUNS = 100;

/** A complete event. */
export interface TraceEvent {
  readonly name: string;
  readonly cat: 'run' | 'op' | 'stage';
  readonly ph: 'X';
  /** Microseconds. */
  readonly ts: number;
  readonly dur: number;
  readonly pid: 1;
  readonly tid: 1;
}

/** The first {@link TRACED_RUNS} runs of each profile: runs, in them ops, in them stages. */
export function traceOf(profiles: readonly Profile[]): { traceEvents: TraceEvent[]; displayTimeUnit: 'ms' } {
  const traceEvents = profiles.flatMap(({ result, runs }) =>
    runs.slice(0, TRACED_RUNS).flatMap((run, index) => eventsOf(`${caseKey(result)}, run ${index + 1}`, run)),
  );
  return { traceEvents, displayTimeUnit: 'ms' };
}

function eventsOf(name: string, { startMs, elapsedMs, spans }: RecordedCall): TraceEvent[] {
  const start = 1000 * startMs;
  const event = (name: string, cat: TraceEvent['cat'], ts: number, dur: number): TraceEvent => {
    return { name, cat, ph: 'X', ts, dur, pid: 1, tid: 1 };
  };
  return [
    event(name, 'run', start, 1000 * elapsedMs),
    ...spans.map(({ op, stage, beginNs, endNs }) =>
      event(stage ?? op, stage ? 'stage' : 'op', start + beginNs / 1000, (endNs - beginNs) / 1000),
    ),
  ];
}
