// When the ops of a call and their stages began and ended on the CPU.

import { synchronize } from '../src/device.ts';
import { type NativeSpan, native } from '../src/native.ts';

/** A call, how long it took to its end, and what its queue did meanwhile. */
export interface RecordedCall {
  /** By `performance.now()`. */
  readonly startMs: number;
  readonly elapsedMs: number;
  /** In the order of their ends. */
  readonly spans: readonly NativeSpan[];
}

/** Records what `call` has the CPU do, to its end. Other threads of the process had better be idle: their ops are recorded too. */
export function recordCall(call: () => void): RecordedCall {
  synchronize('cpu');
  const startMs = performance.now();
  native.startStages();
  let spans: readonly NativeSpan[] = [];
  let elapsedMs = 0;
  try {
    call();
    synchronize('cpu');
    elapsedMs = performance.now() - startMs;
  } finally {
    spans = native.endStages();
  }
  return { startMs, elapsedMs, spans };
}

/** The stages, and those ops that have none: together all that was done, nothing twice. */
export function withoutWholes(spans: readonly NativeSpan[]): NativeSpan[] {
  const divided = new Set(spans.filter(({ stage }) => stage !== undefined).map(({ op }) => op));
  return spans.filter(({ op, stage }) => stage !== undefined || !divided.has(op));
}

export function spanMs({ beginNs, endNs }: NativeSpan): number {
  return (endNs - beginNs) / 1e6;
}
