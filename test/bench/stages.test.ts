// Single ops of a layer: right, counted, and told apart in campaigns.

import { describe, expect, it, vi } from 'vitest';
import { caseKey, expandSweep, groupByLayer } from '../../bench/campaign.ts';
import { checkStage } from '../../bench/check-stage.ts';
import { type BenchResult, bench } from '../../bench/index.ts';
import { MODEL_LAYERS } from '../../bench/model-layers.ts';
import { roofline } from '../../bench/report/roofline.ts';
import { parseShape } from '../../bench/shapes.ts';
import { costOfStage, partsOf, STAGES, type Stage, StageInputs } from '../../bench/stages.ts';
import { Workload } from '../../bench/workload.ts';
import { memory, type Tensor } from '../../src/index.ts';
import { RESULT } from '../support/bench-result.ts';

const workloadOf = (name: string) => {
  const { shape, design } = MODEL_LAYERS.get(name)!;
  return new Workload({ ...shape, tokens: 20, hidden: 24, intermediate: 10 }, 'float32', 'cpu', { design });
};

const wrong = async (inputs: StageInputs, stage: Stage) =>
  (await checkStage(inputs, stage)).filter(({ holds }) => !holds).map(({ name }) => name);

describe('the check of a stage', () => {
  it.each(['gpt-oss-20b', 'switch-base-128', 'longcat-flash', 'expert-choice-8b'])(
    'finds those of %s right, and leaves no tensor',
    async name => {
      const before = memory().tensors;
      {
        using workload = workloadOf(name);
        using inputs = new StageInputs(workload);
        for (const stage of STAGES) expect([stage, await wrong(inputs, stage)]).toEqual([stage, []]);
      }
      expect(memory().tensors).toBe(before);
    },
  );

  it.each(STAGES)('finds a wrong %s', async stage => {
    using workload = workloadOf('gpt-oss-20b');
    using inputs = new StageInputs(workload);
    const damage = (tensor: Tensor) =>
      tensor.write(tensor.dataSync().map(value => value + 1) as Float32Array);
    const { run } = inputs;
    if (stage === 'route') damage(inputs.routing.indices);
    vi.spyOn(inputs, 'run').mockImplementation(which => {
      const made = run.call(inputs, which);
      for (const tensor of made) damage(tensor);
      return made;
    });
    expect(await wrong(inputs, stage)).not.toEqual([]);
  });
});

describe('the cost of a stage', () => {
  const shape = parseShape('shape', '10,8,6,5,2');
  const cost = (stage: Stage) => costOfStage(stage, { shape, elementBytes: 2, touchedExperts: 3, rows: 18 });

  it('is that of what it reads and writes', () => {
    const weight = 8 * 6;
    expect(cost('route')).toEqual({
      ...{ flops: 2 * 10 * 5 * 8, inFloat32: true },
      bytes: 2 * (10 * 8 + 5 * 8) + 2 * 4 * 10 * 5 + 2 * 4 * 20,
    });
    expect(cost('dispatch')).toEqual({ flops: 0, bytes: 4 * 4 * 20 });
    expect(cost('up')).toEqual({ flops: 4 * 18 * weight, bytes: 2 * (3 * 2 * weight + 18 * 8 + 18 * 6) });
    expect(cost('down')).toEqual({ flops: 2 * 18 * weight, bytes: 2 * (3 * weight + 18 * 6 + 18 * 8) });
    expect(cost('combine').flops).toBe(0);
    expect(cost('dgrad').bytes).toBe(2 * (3 * 2 * weight + 2 * 18 * 6 + 18 * 8));
    expect(cost('wgrad').bytes).toBe(2 * (18 * 8 + 2 * 18 * 6 + 5 * 2 * weight));
  });
});

describe('a campaign of stages', () => {
  const names = { pass: '--pass', stage: '--stage' };

  it('measures both passes, or stages, of which each is part of one', () => {
    expect(partsOf(names, undefined, undefined)).toEqual({ passes: ['both'] });
    expect(() => partsOf(names, ['forward'], ['up'])).toThrow(
      '--pass: expected nothing beside stages, each of which is part of one pass, got forward',
    );
    expect(() => partsOf(names, undefined, ['gather'])).toThrow(
      `--stage: expected one of ${STAGES.join(', ')}`,
    );
    const shapes = [{ shape: '10,8,6,5,2', ...parseShape('shape', '10,8,6,5,2') }];
    const cases = expandSweep({
      ...{
        shapes,
        dtypes: ['float32'],
        threads: [1],
        device: 'cpu',
        tf32: false,
        graph: 'off',
        caches: ['cold'],
      },
      ...partsOf(names, undefined, ['up', 'wgrad', 'up']),
    });
    expect(cases.map(({ stage, pass }) => [stage, pass])).toEqual([
      ['up', 'forward'],
      ['wgrad', 'backward'],
    ]);
    expect(caseKey(cases[1]!)).toBe('10,8,6,5,2 T10 float32 wgrad cpu 1 thread');
    expect(groupByLayer(cases)).toHaveLength(1);
  });

  it('has a result for each, the router’s held against the ceilings of float32', async () => {
    const before = memory().tensors;
    const results: BenchResult[] = [];
    const request = {
      shapes: ['10,8,6,5,2'],
      dtypes: ['bfloat16'],
      stages: ['route', 'dispatch', 'up'],
    } as const;
    for await (const result of bench({ ...request, minTimeMs: 1 })) results.push(result);
    expect(results.map(({ stage, pass }) => [stage, pass])).toEqual(
      request.stages.map(stage => [stage, 'forward']),
    );
    const [route, dispatch, up] = results;
    expect([route!.flops, dispatch!.flops, dispatch!.tflops]).toEqual([2 * 10 * 5 * 8, 0, 0]);
    expect(dispatch!.flopsPerSecond).toBe(up!.flopsPerSecond);
    expect(route!.flopsPerSecond).not.toBe(up!.flopsPerSecond);
    expect(memory().tensors).toBe(before);
  });

  it('leaves what has no products out of the roofline', () => {
    const { table, series } = roofline([
      { ...RESULT, stage: 'dispatch', flops: 0, tflops: 0, file: 'a' },
      { ...RESULT, stage: 'up', file: 'a' },
    ]);
    expect(table!.rows.map(([number, , , part]) => [number, part])).toEqual([['2', 'up']]);
    expect(series.flatMap(({ points }) => points.flat()).every(Number.isFinite)).toBe(true);
  });
});
