// When the ops of a call and their stages began and ended on a device.

import { synchronize } from '../src/device.ts';
import { type NativeSpan, native } from '../src/native.ts';
import { type DeviceName, deviceId } from '../src/tensor.ts';
import { timeOn } from './clock.ts';

/** A call, how long its device took to its end, and what it did meanwhile. */
export interface RecordedCall {
  /** By `performance.now()`. */
  readonly startMs: number;
  readonly elapsedMs: number;
  /** In the order of their ends. */
  readonly spans: readonly NativeSpan[];
}

/** Records what `call` has a device do, to its end. Threads whose ops are recorded with it, see `startStages`, had better be idle. */
export function recordCall(device: DeviceName, call: () => void): RecordedCall {
  const id = deviceId(device);
  let spans: readonly NativeSpan[] = [];
  let elapsedMs = 0;
  synchronize(device);
  const startMs = performance.now();
  try {
    elapsedMs = timeOn(device, () => {
      native.startStages(id);
      call();
    });
  } finally {
    spans = native.endStages(id);
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
