// `moe-kernels/bench`: campaigns from a program.

import { afterEach, describe, expect, it } from 'vitest';
import { type BenchRequest, type BenchResult, bench } from '../../bench/index.ts';
import { getThreads, MoeError, setThreads } from '../../src/index.ts';

const SMALL: BenchRequest = { shapes: ['4,16,20,6,2'], minTimeMs: 1 };

async function resultsOf(request: BenchRequest): Promise<BenchResult[]> {
  const results: BenchResult[] = [];
  for await (const result of bench(request)) results.push(result);
  return results;
}

const threads = getThreads();
afterEach(() => setThreads(threads));

describe('bench()', () => {
  it('yields every combination, by layer, and leaves the threads as they were', async () => {
    setThreads(1);
    const results = await resultsOf({
      ...SMALL,
      ...{ tokens: [1, 4], dtypes: ['float32', 'bfloat16'], passes: ['forward', 'both'], threads: [2] },
    });
    expect(results.map(({ tokens, dtype, pass }) => [tokens, dtype, pass])).toEqual(
      [1, 4].flatMap(T =>
        ['float32', 'bfloat16'].flatMap(dtype => ['forward', 'both'].map(pass => [T, dtype, pass])),
      ),
    );
    for (const result of results) {
      expect(result).toMatchObject({
        hidden: 16,
        experts: 6,
        activation: 'swiglu',
        device: 'cpu',
        threads: 2,
      });
      expect(result.medianMs).toBeGreaterThan(0);
    }
    expect(getThreads()).toBe(1);
  });

  it('takes another activation', async () => {
    const [result] = await resultsOf({ ...SMALL, activation: 'relu2', passes: ['forward'] });
    expect(result!.activation).toBe('relu2');
  });

  it('measures peers beside it, forward unless asked otherwise', async () => {
    const notes: string[] = [];
    const vs: BenchRequest = { vs: ['loop'], rounds: 6, threads: [1], onNote: note => notes.push(note) };
    const [forward] = await resultsOf({ ...SMALL, ...vs });
    expect(forward).toMatchObject({ pass: 'forward', vs: [{ peer: 'loop', dtype: 'float32', threads: 1 }] });
    const [both] = await resultsOf({ ...SMALL, ...vs, passes: ['both'] });
    expect(both).not.toHaveProperty('vs');
    expect(notes).toEqual(['loop has no backward pass: it is left out there']);
  });

  it.each<[BenchRequest, string]>([
    [{ shapes: ['mixtral'] }, 'shapes: expected a name that moe-kernels bench --list has, or '],
    [{ routers: ['softmin' as 'softmax'] }, 'routers: expected one of own, softmax, '],
    [{ tokens: [0] }, 'tokens: expected an integer from 1 to 2147483647, got 0'],
    [{ dtypes: ['int8' as 'float32'] }, 'dtypes: expected one of float32, bfloat16, float16, got "int8"'],
    [{ passes: ['up' as 'both'] }, 'passes: expected one of forward, backward, both, got "up"'],
    [{ threads: [0] }, 'threads: expected an integer from 1 to 1024, got 0'],
    [{ activation: 'tanh' as 'relu' }, 'activation: expected one of '],
    [{ device: 'tpu' as 'cpu' }, 'device: expected cpu or cuda:N, got "tpu"'],
    [{ graph: 'on' }, 'graph: expected off on cpu, which launches no graphs, got "on"'],
    [{ precision: 0 }, 'precision: expected a positive number, got 0'],
    [{ maxTimeMs: 0.5 }, 'maxTimeMs: expected no less than the least time, 0.001 s, got 0.0005 s'],
    [{ caches: ['hot' as 'cold'] }, 'caches: expected one of cold, warm, got "hot"'],
    [{ vs: ['jax' as 'loop'] }, 'vs: expected one of onnxruntime-node, loop, '],
    [
      { vs: ['loop'], caches: ['cold'] },
      'caches: expected warm beside peers, which have one copy of the layer, got cold',
    ],
    [{ rounds: 5 }, 'rounds: expected an integer from 6 to 1000, got 5'],
    [{ minTimeMs: 0 }, 'minTimeMs: expected a positive number, got 0'],
  ])('%j is refused at the call', (request, sentence) => {
    const call = () => bench({ ...SMALL, ...request });
    expect(call).toThrow(MoeError);
    expect(call).toThrow(sentence);
  });
});
