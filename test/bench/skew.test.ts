// How rows are distributed over experts: the distributions themselves, traces, and layers that are run with them.

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { caseKey, groupByLayer } from '../../bench/campaign.ts';
import { checkWorkload } from '../../bench/check.ts';
import { type BenchRequest, type BenchResult, bench } from '../../bench/index.ts';
import { routedShape, withSkews, workloadOptions } from '../../bench/routed-shapes.ts';
import { flops, parseShape } from '../../bench/shapes.ts';
import { skewedExperts } from '../../bench/skew.ts';
import { rowsPerExpert, Workload } from '../../bench/workload.ts';
import { presets } from '../../src/index.ts';
import { temporaryFiles } from '../cli/support/safetensors.ts';

const SIZES = { tokens: 400, experts: 8, topK: 2 };
const { write, folder } = temporaryFiles();
const of = (skew: string, sizes = SIZES) => skewedExperts('--skew', skew, sizes);
const load = (skew: string, sizes = SIZES) => rowsPerExpert(of(skew, sizes), sizes.experts);
const trace = (name: string, text: string) => `trace:${write(name, Buffer.from(text))}`;

async function resultsOf(request: BenchRequest): Promise<BenchResult[]> {
  const results: BenchResult[] = [];
  for await (const result of bench(request)) results.push(result);
  return results;
}

describe('a distribution', () => {
  it.each(['uniform', 'one-hot', 'zipf:0', 'zipf:1.5'])('%s gives each token experts of its own', skew => {
    const ids = of(skew, { tokens: 50, experts: 5, topK: 4 });
    for (let token = 0; token < 50; token++) {
      const own = ids.subarray(4 * token, 4 * token + 4);
      expect(new Set(own).size).toBe(4);
      expect(own.every(id => id >= 0 && id < 5)).toBe(true);
    }
  });

  it('uniform is even, but for one row', () => {
    expect(load('uniform')).toEqual(Array(8).fill(100));
    expect(load('uniform', { tokens: 5, experts: 4, topK: 1 })).toEqual([2, 1, 1, 1]);
  });

  it('one-hot loads the first K experts alone', () => {
    expect(load('one-hot')).toEqual([400, 400, 0, 0, 0, 0, 0, 0]);
  });

  it('zipf gives rank r a share in proportion to r^−S, always the same', () => {
    const rows = load('zipf:1', { tokens: 20000, experts: 4, topK: 1 });
    const shares = [1, 1 / 2, 1 / 3, 1 / 4].map(share => share / (25 / 12));
    for (const [e, share] of shares.entries()) expect(Math.abs(rows[e]! / 20000 - share)).toBeLessThan(0.015);
    expect(of('zipf:1.2')).toEqual(of('zipf:1.2'));
    // The second of two, without the first: Σ over the first expert of its share times what is left of the others'.
    const first = load('zipf:2', { tokens: 20000, experts: 3, topK: 2 });
    const p = [1, 1 / 4, 1 / 9].map(share => share / (49 / 36));
    const expected = p[2]! + p[0]! * (p[2]! / (1 - p[0]!)) + p[1]! * (p[2]! / (1 - p[1]!));
    expect(Math.abs(first[2]! / 20000 - expected)).toBeLessThan(0.015);
  });
});

describe('a trace', () => {
  const sizes = { tokens: 2, experts: 4, topK: 2 };

  it('is what the file says', () => {
    expect([...of(trace('good.json', '[[3, 0], [1, 2]]'), sizes)]).toEqual([3, 0, 1, 2]);
  });

  it.each([
    ['[[3, 0]]', 'expected 2 tokens in PATH, got 1'],
    ['[[3, 0], [1]]', 'expected 2 distinct ids from 0 to 3 for each token in PATH, got [1] for token 1'],
    ['[[3, 3], [1, 2]]', 'expected 2 distinct ids from 0 to 3 for each token in PATH, got [3,3] for token 0'],
    ['[[3, 0], [1, 4]]', 'expected 2 distinct ids from 0 to 3 for each token in PATH, got [1,4] for token 1'],
    [
      '[[3, 0], [1, -1]]',
      'expected 2 distinct ids from 0 to 3 for each token in PATH, got [1,-1] for token 1',
    ],
    [
      '[[3, 0], [1, 0.5]]',
      'expected 2 distinct ids from 0 to 3 for each token in PATH, got [1,0.5] for token 1',
    ],
    ['{"tokens": []}', 'expected a list of lists of expert ids, as JSON, in PATH, got an object'],
    ['3,0', 'expected a list of lists of expert ids, as JSON, in PATH, got "3,0"'],
  ])('%s is refused', (text, sentence) => {
    const skew = trace('bad.json', text);
    expect(() => of(skew, sizes)).toThrow(`--skew: ${sentence.replace('PATH', join(folder, 'bad.json'))}`);
  });

  it.each(['zipf', 'zipf:', 'zipf:-1', 'zipf:1e3', 'uniform:1', 'one-hot:2', 'trace', 'even'])(
    '%s is no distribution',
    skew => {
      const expected = 'router, uniform, zipf:S with a number S, one-hot or trace:FILE';
      expect(() => of(skew)).toThrow(`--skew: expected ${expected}, got "${skew}"`);
    },
  );
});

describe('a layer with given experts', () => {
  const named = (shape: string) => ({
    shape,
    ...parseShape('shape', shape),
    tokens: 12,
    hidden: 32,
    intermediate: 8,
  });
  const skewed = (shape: string, skew: string) => withSkews('--skew', [named(shape)], [skew])[0]!;

  it.each(['olmoe', 'deepseek-v3', 'switch-base-128', 'longcat-flash', 'gpt-oss-20b'])(
    '%s is right, and what only chooses is left out',
    async shape => {
      const layer = skewed(shape, 'zipf:1');
      using workload = new Workload(layer, 'bfloat16', 'cpu', workloadOptions(layer));
      expect((await checkWorkload(workload, true)).filter(({ holds }) => !holds)).toEqual([]);
      expect([workload.router.groups, workload.router.selectionBias]).toEqual([undefined, undefined]);
      expect(workload.router.normalize).toBe(
        named(shape) && workloadOptions(named(shape)).design!.router.normalize,
      );
    },
  );

  it('is not right with others', async () => {
    const layer = skewed('olmoe', 'uniform');
    using workload = new Workload(layer, 'float32', 'cpu', workloadOptions(layer));
    const { forward } = workload;
    workload.forward = save => {
      const made = forward.call(workload, save);
      made.routing.indices.write(Int32Array.from(made.routing.indices.dataSync(), id => (id + 1) % 64));
      return made;
    };
    const wrong = (await checkWorkload(workload, false)).filter(({ holds }) => !holds);
    expect(wrong.map(({ name }) => name)).toContain('topk.index');
  });

  it('is refused where the router cannot be told', () => {
    expect(() => skewed('expert-choice-8b', 'uniform')).toThrow(
      /^--skew\.expertChoice: expected nothing with given/,
    );
    expect(() => skewed('phi-3.5-moe', 'uniform')).toThrow(
      /^--skew\.score: expected another score than sparsemixer/,
    );
    expect(presets.phi35Moe.router!.score).toBe('sparsemixer');
  });

  it('has its own results, with the load that was asked for, and FLOPs by it', async () => {
    const request = { shapes: ['24,16,20,6,2'], skews: ['router', 'one-hot'], minTimeMs: 1 };
    const [own, oneHot] = await resultsOf({ ...request, passes: ['forward'] });
    expect([own!.skew, oneHot!.skew]).toEqual([undefined, 'one-hot']);
    expect(oneHot!.expertLoad).toEqual([24, 24, 0, 0, 0, 0]);
    expect(oneHot!.bytes).toBeLessThan(own!.bytes);
    expect(caseKey(oneHot!)).toMatch(/^24,16,20,6,2 T24 one-hot float32 forward cpu/);
    expect(groupByLayer([own!, oneHot!])).toHaveLength(2);
    const capacity = { shapes: ['8,16,8,4,1'], routers: ['capacity'] } as const;
    const switched = await resultsOf({ ...request, ...capacity, passes: ['forward'] });
    // ⌈1.25 · 8 / 4⌉ = 3 of the 8 rows fit.
    expect(switched[1]!.expertLoad).toEqual([3, 0, 0, 0]);
    expect(switched[1]!.flops).toBe(flops(routedShape(switched[1]!), 'forward', 3));
  });
});
