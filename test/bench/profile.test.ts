// Profiles put together from recorded runs, their costs by formula, and the trace of them.

import { describe, expect, it, vi } from 'vitest';
import { type Profile, runProfile, summarise } from '../../bench/profile.ts';
import { bytes, flops, type LayerShape, PASSES, parseShape, SHAPES } from '../../bench/shapes.ts';
import type { RecordedCall } from '../../bench/spans.ts';
import { type StageCost, stageCosts } from '../../bench/stage-costs.ts';
import { TRACED_RUNS, type TraceEvent, traceOf } from '../../bench/trace.ts';
import { memory } from '../../src/index.ts';
import { native } from '../../src/native.ts';

const SHAPE: LayerShape = {
  ...{ tokens: 10, hidden: 8, intermediate: 6, experts: 5, topK: 2 },
  activation: 'swiglu',
};

describe('costs of stages', () => {
  const costsOf = (shape: LayerShape) =>
    stageCosts({ shape, elementBytes: 2, touchedExperts: 3, saves: false });
  const layerFlops = (stages: Readonly<Record<string, StageCost>>) =>
    Object.values(stages).reduce((sum, stage) => sum + stage.flops, 0);

  it.each(Object.entries(SHAPES))('of %s sum up to the FLOPs of the passes', (_, shape) => {
    const { expertsForward, expertsBackward } = costsOf(shape);
    expect(layerFlops(expertsForward!)).toBe(flops(shape, 'forward'));
    expect(layerFlops(expertsBackward!)).toBe(flops(shape, 'backward'));
  });

  it('are what their formulas say', () => {
    const { route, expertsForward, expertsBackward, routeBackward } = costsOf(SHAPE);
    const [T, R, weight] = [10, 20, 8 * 6];
    expect(route!.logits).toEqual({
      ...{ flops: 2 * T * 5 * 8, bytes: 2 * (T * 8 + 5 * 8) + 4 * T * 5 },
      inFloat32: true,
    });
    expect(expertsForward!.up).toEqual({
      flops: 4 * R * weight,
      bytes: 2 * (3 * 2 * weight + T * 8 + R * 6),
    });
    expect(expertsForward!.down).toEqual({ flops: 2 * R * weight, bytes: 2 * (3 * weight + R * 6 + R * 8) });
    expect(expertsForward!.combine).toEqual({ flops: 0, bytes: 2 * (R * 8 + T * 8) + 2 * 4 * R });
    expect(expertsBackward!.dPre!.bytes).toBe(2 * (3 * weight + T * 8 + 5 * R * 6));
    expect(expertsBackward!.dRows!.bytes).toBe(2 * (3 * 2 * weight + 2 * R * 6 + R * 8));
    expect(expertsBackward!.dDown!.bytes).toBe(2 * (T * 8 + R * 6 + 5 * weight));
    expect(expertsBackward!.dUp!.bytes).toBe(2 * (T * 8 + 2 * R * 6 + 5 * 2 * weight));
    expect(routeBackward!.dx!.bytes).toBe(4 * T * 5 + 2 * (5 * 8 + 2 * T * 8));
  });

  it('count what a forward pass saves, and one column where there is no gate', () => {
    const saving = stageCosts({ shape: SHAPE, elementBytes: 2, touchedExperts: 3, saves: true });
    const up = costsOf(SHAPE).expertsForward!.up!;
    expect(saving.expertsForward!.up!.bytes).toBe(up.bytes + 2 * 2 * 20 * 6);
    const ungated = costsOf({ ...SHAPE, activation: 'relu' }).expertsForward!.up!;
    expect(2 * ungated.flops).toBe(up.flops);
    expect(up.bytes - ungated.bytes).toBe(2 * 3 * 8 * 6);
  });

  it('move together no fewer bytes than the pass must', () => {
    for (const shape of Object.values(SHAPES)) {
      const sum = (stages: Readonly<Record<string, StageCost>>) =>
        Object.values(stages).reduce((total, stage) => total + stage.bytes, 0);
      const { expertsForward, expertsBackward } = costsOf(shape);
      expect(sum(expertsForward!)).toBeGreaterThanOrEqual(bytes(shape, 'forward', 2, 3));
      expect(sum(expertsBackward!)).toBeGreaterThanOrEqual(bytes(shape, 'backward', 2, 3));
    }
  });
});

/** A run that starts at so many ms: fill 1 ms, then route with two stages, then an end. */
function run(startMs: number, logits: number, choice: number, rest: number): RecordedCall {
  const ns = (ms: number) => 1e6 * ms;
  const begin = 1;
  return {
    startMs,
    elapsedMs: 1 + logits + choice + rest,
    spans: [
      { op: 'fill', beginNs: 0, endNs: ns(begin) },
      { op: 'route', stage: 'logits', beginNs: ns(begin), endNs: ns(begin + logits) },
      { op: 'route', stage: 'choice', beginNs: ns(begin + logits), endNs: ns(begin + logits + choice) },
      { op: 'route', beginNs: ns(begin), endNs: ns(begin + logits + choice) },
    ],
  };
}

const RUNS = [run(100, 5, 1, 2), run(200, 7, 2, 9), run(300, 6, 3, 4)];

describe('a profile', () => {
  it('has medians of stages and of the rest, which add up to its total', () => {
    const ceilings = {
      layer: { flopsPerSecond: 1e9, bytesPerSecond: 1e9 },
      float32: { flopsPerSecond: 1e6, bytesPerSecond: 1e9 },
    };
    const logits = { flops: 2000, bytes: 4, inFloat32: true };
    const choice = { flops: 2000, bytes: 4 };
    expect(summarise(RUNS, { route: { logits, choice } }, ceilings)).toEqual({
      stages: [
        { op: 'fill', medianMs: 1 },
        { op: 'route', stage: 'logits', medianMs: 6, ...logits, floorMs: 2 },
        { op: 'route', stage: 'choice', medianMs: 2, ...choice, floorMs: 0.002 },
      ],
      betweenMs: 4,
      totalMs: 13,
    });
  });

  it('adds up what one stage does in several parts', () => {
    const [first] = RUNS;
    const twice = { ...first!, elapsedMs: 20, spans: [...first!.spans, ...first!.spans] };
    const ceilings = { flopsPerSecond: 1, bytesPerSecond: 1 };
    const { stages, betweenMs } = summarise([twice], {}, { layer: ceilings, float32: ceilings });
    expect(stages.map(({ medianMs }) => medianMs)).toEqual([2, 10, 2]);
    expect(betweenMs).toBe(6);
  });

  it('of a layer knows the cost of every stage, takes what its stages take, and leaves no tensor', async () => {
    const before = memory().tensors;
    const upBytes: number[] = [];
    const shape = { shape: 'small', ...parseShape('shape', '24,16,20,6,2') };
    const options = { shape, dtype: 'bfloat16', device: 'cpu', passes: PASSES, minTimeMs: 5 } as const;
    for await (const { result, runs } of runProfile(options)) {
      expect(result.runs).toBe(runs.length);
      const up = result.stages.find(({ op, stage }) => op === 'expertsForward' && stage === 'up');
      if (up) upBytes.push(up.bytes!);
      for (const { op, stage, floorMs, medianMs } of result.stages) {
        expect([op, stage, floorMs! > 0]).toEqual([op, expect.any(String), true]);
        expect(medianMs).toBeGreaterThan(0);
      }
      const sum = result.stages.reduce((total, { medianMs }) => total + medianMs, 0);
      expect(result.totalMs).toBeCloseTo(sum + result.betweenMs, 9);
      expect(result.betweenMs).toBeGreaterThan(0);
      const whole = result.stages.reduce((total, stage) => total + stage.flops!, 0);
      expect(whole).toBeGreaterThan(flops(shape, result.pass));
    }
    // Only the pass that goes on backward saves.
    expect(upBytes).toEqual([upBytes[0], upBytes[0]! + 2 * 2 * (24 * 2) * 20]);
    expect(memory().tensors).toBe(before);
  });
});

describe('the runs of a profile', () => {
  it('are those after the first two', async () => {
    const start = vi.spyOn(native, 'startStages');
    const shape = { shape: 'tiny', ...parseShape('shape', '2,4,4,2,1') };
    const passes = ['forward'] as const;
    const options = { shape, dtype: 'float32', device: 'cpu', passes, minTimeMs: 0.01 } as const;
    try {
      for await (const { runs } of runProfile(options)) {
        expect(start).toHaveBeenCalledTimes(runs.length + 2);
      }
    } finally {
      start.mockRestore();
    }
  });
});

describe('a trace', () => {
  const result = {
    ...{ shape: 'tiny', ...SHAPE, dtype: 'float32', pass: 'forward', device: 'cpu', threads: 2 },
  } as Profile['result'];
  const { traceEvents } = traceOf([{ result, runs: RUNS }]);
  const within = (inner: TraceEvent, outer: TraceEvent) =>
    inner.ts >= outer.ts && inner.ts + inner.dur <= outer.ts + outer.dur;

  it('has each run, op and stage where it was, in microseconds', () => {
    expect(traceEvents).toHaveLength(15);
    const common = { ph: 'X', pid: 1, tid: 1 };
    expect(traceEvents.slice(5, 8)).toEqual([
      {
        name: 'tiny T10 float32 forward cpu 2 threads, run 2',
        cat: 'run',
        ts: 200_000,
        dur: 19_000,
        ...common,
      },
      { name: 'fill', cat: 'op', ts: 200_000, dur: 1000, ...common },
      { name: 'logits', cat: 'stage', ts: 201_000, dur: 7000, ...common },
    ]);
  });

  it('nests stages in ops and ops in runs', () => {
    const of = (cat: TraceEvent['cat']) => traceEvents.filter(event => event.cat === cat);
    for (const op of of('op')) expect(of('run').filter(each => within(op, each))).toHaveLength(1);
    for (const stage of of('stage')) expect(of('op').filter(each => within(stage, each))).toHaveLength(1);
  });

  it('has the first runs of each profile', () => {
    const runs = Array.from({ length: TRACED_RUNS + 5 }, () => RUNS[0]!);
    const profile = { result, runs };
    expect(traceOf([profile, profile]).traceEvents).toHaveLength(2 * TRACED_RUNS * 5);
  });
});
