// A result of `bench`, and of a peer beside it, for what reads and shows them.

import type { PeerResult } from '../../bench/peers/race.ts';
import type { BenchResult } from '../../bench/result.ts';

/** Of round numbers: half of what the machine can, 500 GB/s. */
export const RESULT: BenchResult = {
  ...{ shape: '16,8,12,4,2', dtype: 'float32', device: 'cpu', pass: 'forward', threads: 2 },
  ...{ medianMs: 2, lowMs: 1.9, highMs: 2.25, p10Ms: 1.8, p90Ms: 3, minMs: 1.5, runs: 50, clock: 'wall' },
  ...{ flops: 4e9, bytes: 1e9, tflops: 2, floorMs: 1, flopsPerSecond: 4e12, bytesPerSecond: 1e12 },
  ...{ rulers: 4, rulersLow: 3.9, rulersHigh: 4.2, minTimeMs: 2000, maxTimeMs: 10_000, precision: 2 },
  ...{ cache: 'cold', copies: 3, peakBytes: 3e8 },
  ...{ tokens: 16, hidden: 8, intermediate: 12, experts: 4, topK: 2, activation: 'swiglu' },
  ...{ expertLoad: [20, 0, 4, 8], instructionSet: 'avx2', processor: 'A Processor', version: '0.1.0' },
  date: '2026-01-02T03:04:05.678Z',
};

/** As what onnxruntime-node took beside {@link RESULT}: two and a half times as long. */
export const PEER_RESULT: PeerResult = {
  ...{ peer: 'onnxruntime-node', version: '1.30.0', dtype: 'float32', threads: 2 },
  ...{ medianMs: 5, p10Ms: 4.5, p90Ms: 6, runs: 40, difference: 1e-7 },
  ...{ ratio: 2.5, ratioLow: 2.25, ratioHigh: 3 },
};
