// What the addon records of ops and their stages: names, order, and nothing that it was not asked for.

import { afterEach, describe, expect, it } from 'vitest';
import { recordCall, spanMs, withoutWholes } from '../../bench/spans.ts';
import { disposeForward, disposeGradients, type WorkloadForward } from '../../bench/workload.ts';
import { MoELayer, moeBackward, moeForward, type SaveMode, synchronize } from '../../src/index.ts';
import { type NativeSpan, native } from '../../src/native.ts';
import { deviceId } from '../../src/tensor.ts';
import { enqueueBadOp } from '../lifetime/support/bad-op.ts';
import { layerDigest, randomTensor } from '../lifetime/support/work.ts';
import { startWorker } from '../lifetime/support/workers.ts';

const CPU = deviceId('cpu');

const FORWARD = [
  'route logits',
  'route choice',
  'route',
  'dispatch count',
  'dispatch place',
  'dispatch',
  'expertsForward up',
  'expertsForward down',
  'expertsForward combine',
  'expertsForward',
];
const BACKWARD = [
  'expertsBackward dPre',
  'expertsBackward dWeights',
  'expertsBackward dRows',
  'expertsBackward dx',
  'expertsBackward dDown',
  'expertsBackward dUp',
  'expertsBackward',
  'routeBackward dLogits',
  'routeBackward dx',
  'routeBackward dRouter',
  'routeBackward',
];

const namesOf = (spans: readonly NativeSpan[]) =>
  spans.map(({ op, stage }) => (stage === undefined ? op : `${op} ${stage}`));

/** Spans of a layer's forward and backward pass. */
function record(
  save: SaveMode,
  options: { applyWeightTo?: 'input'; capacity?: number; bias?: boolean } = {},
) {
  const [hidden, intermediate, experts] = [32, 24, 4];
  const { capacity, bias, ...rest } = options;
  using x = randomTensor([40, hidden], 1);
  using weight = randomTensor([experts, hidden], 2);
  using gateUp = randomTensor([experts, 2 * intermediate, hidden], 3);
  using down = randomTensor([experts, hidden, intermediate], 4);
  using downBias = randomTensor([experts, hidden], 5);
  return recordCall('cpu', () => {
    const forward = moeForward({
      ...{ x, save, experts: { gateUp, down, ...(bias && { downBias }) }, ...rest },
      router: { weight, topK: 2, ...(capacity && { capacity: { tokensPerExpert: capacity } }) },
    }) as WorkloadForward;
    if (forward.saved) disposeGradients(moeBackward({ dy: x, saved: forward.saved }));
    disposeForward(forward);
  });
}

// A test that fails in between leaves nothing recording.
afterEach(() => void native.endStages(CPU));

describe('a recording', () => {
  it('names the stages of every op of a layer, in order', () => {
    expect(namesOf(record('nothing').spans)).toEqual(FORWARD);
    expect(namesOf(record('activations').spans)).toEqual([...FORWARD, ...BACKWARD]);
    expect(namesOf(record('recompute').spans)).toEqual([
      ...FORWARD,
      'expertsBackward recompute',
      ...BACKWARD,
    ]);
  });

  it('names what only some layers do', () => {
    expect(namesOf(record('nothing', { capacity: 3 }).spans)).toContain('route capacity');
    expect(namesOf(record('activations', { bias: true }).spans)).toContain('expertsBackward dBias');
    const onInput = namesOf(record('activations', { applyWeightTo: 'input' }).spans);
    expect(onInput.filter(name => name === 'expertsBackward dWeights')).toHaveLength(2);
  });

  it('has the stages of an op within it, one after the other', () => {
    const { spans, elapsedMs } = record('activations');
    let last = 0;
    let stages: NativeSpan[] = [];
    for (const span of spans) {
      expect(span.beginNs).toBeLessThanOrEqual(span.endNs);
      if (span.stage !== undefined) {
        stages.push(span);
        continue;
      }
      expect(span.beginNs).toBeGreaterThanOrEqual(last);
      last = span.beginNs;
      for (const { op, beginNs, endNs } of stages) {
        expect([op, beginNs >= last]).toEqual([span.op, true]);
        last = endNs;
      }
      expect(span.endNs).toBeGreaterThanOrEqual(last);
      last = span.endNs;
      stages = [];
    }
    expect(stages).toEqual([]);
    expect(last / 1e6).toBeLessThanOrEqual(elapsedMs);
  });

  it('holds recorded calls made again, as those made anew', () => {
    using layer = new MoELayer({ hidden: 16, intermediate: 16, experts: 4, topK: 2 }, { seed: 1 });
    using x = randomTensor([8, 16], 2);
    for (let i = 0; i < 4; i++) {
      const { spans } = recordCall('cpu', () => {
        layer.forward(x).dispose();
      });
      expect(namesOf(spans)).toEqual(FORWARD);
    }
  });

  it('is empty of what ran outside it', async () => {
    await layerDigest(1);
    expect(native.endStages(CPU)).toEqual([]);
    expect(recordCall('cpu', () => {}).spans).toEqual([]);
    await layerDigest(1);
    expect(native.endStages(CPU)).toEqual([]);
  });

  it('ends where an op fails, with the op in it', () => {
    native.startStages(CPU);
    enqueueBadOp();
    expect(() => synchronize()).toThrow();
    expect(namesOf(native.endStages(CPU)).at(-1)).toBe('dispatch');
    expect(() => recordCall('cpu', enqueueBadOp)).toThrow(/99/);
    synchronize();
    expect(native.endStages(CPU)).toEqual([]);
  });

  it('holds the ops of all threads', async () => {
    const workers = [1, 2, 3].map(seed => startWorker({ name: 'digests', seeds: [seed, seed + 1] }));
    native.startStages(CPU);
    for (const { message } of workers) await message;
    const spans = native.endStages(CPU);
    expect(spans.filter(({ op, stage }) => op === 'expertsBackward' && !stage)).toHaveLength(6);
    await Promise.all(workers.map(({ exit }) => exit));
  });
});

describe('the parts of a recording', () => {
  const span = (op: NativeSpan['op'], stage?: string): NativeSpan => {
    return { op, ...(stage && { stage }), beginNs: 1e6, endNs: 3.5e6 };
  };

  it('are its stages, and the ops that have none', () => {
    const spans = [span('fill'), span('route', 'logits'), span('route'), span('cast')];
    expect(withoutWholes(spans)).toEqual([spans[0], spans[1], spans[3]]);
  });

  it('last as long as they last', () => expect(spanMs(span('fill'))).toBe(2.5));
});
