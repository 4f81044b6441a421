// `npm run bench:peers`, but for the peers themselves, which are not installed where tests run: what each says it can do, what a
// model for one looks like, and that a race times nothing that is wrong and survives whatever a peer does.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, vi } from 'vitest';
import { ggml } from '../../bench/peers/ggml.ts';
import { readFloats, TemporaryFolder, writeFloats } from '../../bench/peers/layer-files.ts';
import { moeModel } from '../../bench/peers/onnx-model.ts';
import { interleaved, onnxruntime } from '../../bench/peers/onnxruntime.ts';
import type { Peer, Task } from '../../bench/peers/peer.ts';
import { type Race, type RaceResult, race, takeTurns } from '../../bench/peers/race.ts';
import { printRace, printRaceJson, tableRow } from '../../bench/peers/report.ts';
import { tfjsWasm } from '../../bench/peers/tfjs-wasm.ts';
import { torch } from '../../bench/peers/torch.ts';
import { parseShape } from '../../bench/shapes.ts';
import { jsonLines } from '../cli/support/command.ts';

const SHAPE = parseShape('shape', '24,16,20,6,2');
const TASK: Task = { shape: SHAPE, dtype: 'float32', pass: 'forward', threads: 1 };

describe('what a peer can do', () => {
  const relu = { ...SHAPE, activation: 'relu' } as const;
  const geglu = { ...SHAPE, activation: 'geglu' } as const;

  it.each<[string, Partial<Task>, (string | undefined)[]]>([
    ['float32 forward', {}, [undefined, undefined, undefined, undefined]],
    ['relu', { shape: relu }, [undefined, undefined, undefined, undefined]],
    ['geglu', { shape: geglu }, ['no geglu', 'no geglu', 'no geglu', 'no geglu']],
    ['bfloat16', { dtype: 'bfloat16' }, ['no bfloat16', undefined, 'no bfloat16', undefined]],
    ['float16', { dtype: 'float16' }, ['no float16', undefined, 'no float16', 'no float16']],
    ['backward', { pass: 'both' }, ['no backward pass', 'no backward pass', 'no backward pass', undefined]],
  ])('%s', (_, part, reasons) => {
    expect([onnxruntime, ggml, tfjsWasm, torch].map(peer => peer.can({ ...TASK, ...part }))).toEqual(reasons);
  });
});

describe('turns', () => {
  const runners = (durations: Record<string, number>) => {
    const calls: string[] = [];
    const made = Object.entries(durations).map(([name, ms]) => ({
      run: async (times: number) => {
        calls.push(`${name}${times}`);
        // The first run of all is slow, and says nothing.
        return Array.from({ length: times }, (_, i) => (i === 0 && calls.length <= 2 ? 10 * ms : ms));
      },
    }));
    return { calls, made };
  };

  it('alternate after a warm-up, each as long as its share', async () => {
    const { calls, made } = runners({ a: 1, b: 20 });
    const turns = await takeTurns(made, { rounds: 3, minTimeMs: 120 });
    expect(calls).toEqual(['a2', 'b2', 'a40', 'b2', 'a40', 'b2', 'a40', 'b2']);
    expect(turns.map(of => of.map(({ length }) => length))).toEqual([
      [40, 40, 40],
      [2, 2, 2],
    ]);
  });

  it('are fewer for one whose run takes longer than all of them should', async () => {
    const { made } = runners({ a: 100, b: 500 });
    const turns = await takeTurns(made, { rounds: 9, minTimeMs: 400 });
    expect(turns.map(({ length }) => length)).toEqual([9, 6]);
  });

  it('are never more than those of the first', async () => {
    const { made } = runners({ a: 500, b: 100 });
    const turns = await takeTurns(made, { rounds: 9, minTimeMs: 400 });
    expect(turns.map(({ length }) => length)).toEqual([6, 6]);
  });
});

describe('a race', () => {
  const child = fileURLToPath(new URL('./children/peer.mjs', import.meta.url));
  const peer = (behaviour: string, command = process.execPath): Peer => ({
    name: `peer ${behaviour}`,
    can: () => undefined,
    program: () => ({ command, args: [child, behaviour] }),
  });
  const run = (peers: Peer[], task = TASK) =>
    race('small', task, peers, { rounds: 6, minTimeMs: 6, python: 'python3' });

  it.each(['forward', 'both'] as const)('times what is right, %s', async pass => {
    const { results, leftOut } = await run([peer('1.000001')], { ...TASK, pass });
    expect(leftOut).toEqual([]);
    const [ours, theirs] = results as [RaceResult, RaceResult];
    expect(ours).toMatchObject({ shape: 'small', contender: 'moe-kernels', pass, threads: 1, tokens: 24 });
    expect([ours.ratio, ours.difference]).toEqual([undefined, undefined]);
    expect(theirs).toMatchObject({ contender: 'peer 1.000001', version: '1.2.3', runs: 6, rounds: 6 });
    expect(theirs).toMatchObject({ medianMs: 1000, p10Ms: 1000, p90Ms: 1000 });
    expect(theirs.difference).toBeCloseTo(1e-6, 7);
    const { median, low, high } = theirs.ratio!;
    expect(low).toBeGreaterThan(1);
    expect(median).toBeGreaterThanOrEqual(low);
    expect(high).toBeGreaterThanOrEqual(median);
  });

  it.each([
    ['1.001', 'wrong', 'its result differs from ours: y 1.0e-3 > 1.0e-5'],
    ['NaN', 'wrong', 'its result differs from ours: y NaN > 1.0e-5'],
    ['forgets', 'wrong', 'its result differs from ours: y NaN > 1.0e-5'],
    ['refuses', 'failed', 'no room left'],
    ['dies', 'failed', 'MemoryError: too much'],
  ])('does not time one that %s', async (behaviour, because, reason) => {
    const { results, leftOut } = await run([peer(behaviour)]);
    expect(leftOut).toEqual([{ contender: `peer ${behaviour}`, because, reason }]);
    expect(results).toEqual([]);
  });

  it('finds wrong gradients', async () => {
    const { leftOut } = await run([peer('1.001')], { ...TASK, pass: 'both' });
    const names = ['y', 'dx', 'd.router', 'd.up', 'd.down'];
    expect(leftOut[0]!.reason.match(/[\w.]+(?= 1\.0e-3)/g)).toEqual(names);
  });

  it('goes on without those that cannot take part', async () => {
    const cannot = { ...peer('1'), name: 'other', can: () => 'no time' };
    const { results, leftOut } = await run([cannot, peer('1', '/nowhere/python'), peer('1')]);
    expect(results.map(({ contender }) => contender)).toEqual(['moe-kernels', 'peer 1']);
    expect(leftOut).toEqual([
      { contender: 'other', because: 'cannot', reason: 'no time' },
      { contender: 'peer 1', because: 'failed', reason: expect.stringContaining('ENOENT') },
    ]);
  });
});

describe('the report', () => {
  const ours = {
    ...{ shape: 'small', dtype: 'float32', pass: 'forward', contender: 'moe-kernels', version: '0.1.0' },
    ...{
      threads: 2,
      medianMs: 0.31234,
      p10Ms: 0.0999,
      p90Ms: 1.5,
      tflops: 0.1,
      ...SHAPE,
      runs: 9,
      rounds: 9,
      cpu: 'abacus',
    },
  } as const satisfies RaceResult;
  const theirs: RaceResult = {
    ...ours,
    ...{ contender: 'onnxruntime-node', medianMs: 12345.6, p10Ms: 999.96, p90Ms: 20000 },
    ...{ difference: 1e-7, ratio: { median: 2, low: 0.0512, high: 10.04 } },
  };
  const result: Race = {
    results: [ours, theirs],
    leftOut: [{ contender: 'third', because: 'wrong', reason: 'its result differs from ours: y' }],
  };
  const printed = (print: typeof printRace) => {
    const spy = vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
    try {
      print(result, 'small', TASK);
      return spy.mock.calls.map(([text]) => text).join('');
    } finally {
      spy.mockRestore();
    }
  };

  it('rounds to digits that can be read', () => {
    expect(tableRow(ours)).toEqual(['moe-kernels', '2', '0.312', '0.100 – 1.500', '']);
    expect(tableRow(theirs)).toEqual([
      'onnxruntime-node',
      '2',
      '12346',
      '1000.0 – 20000',
      '2.00 (0.05 – 10.0)',
    ]);
  });

  it('is a table that fits 80 columns', () => {
    const text = printed(printRace);
    expect(text).toContain('small: T 24, H 16, I 20, E 6, K 2, swiglu, float32, forward\n');
    expect(text).toContain('  third is not timed: its result differs from ours: y\n');
    const widest = Math.max(
      ...text
        .split('\n')
        .filter(line => line.includes('│'))
        .map(line => line.length),
    );
    expect(widest).toBeLessThanOrEqual(80);
  });

  it('is a line of JSON for each contender', () => {
    const lines = jsonLines(printed(printRaceJson));
    expect(lines.slice(0, 2)).toEqual([ours, theirs]);
    expect(lines[2]).toEqual({
      ...{ shape: 'small', dtype: 'float32', pass: 'forward' },
      ...{ ...SHAPE, ...result.leftOut[0] },
    });
  });
});

describe('the files of a layer', () => {
  it('hold what was written, until the folder is gone', () => {
    const values = Float32Array.of(1, -2.5, Number.NaN, 1e-40);
    let path: string;
    {
      using folder = new TemporaryFolder();
      path = folder.path;
      // A part of a larger buffer.
      writeFloats(path, 'x', Float32Array.of(9, ...values, 9).subarray(1, 5));
      expect(readFloats(path, 'x')).toEqual(values);
    }
    expect(existsSync(path)).toBe(false);
  });
});

describe('the model for ONNX Runtime', () => {
  it('takes gate and up rows in turn', () => {
    // Two experts, gate rows then up rows, of width 1.
    const up = Float32Array.of(10, 11, 20, 21, 30, 31, 40, 41);
    expect([...interleaved(up, 1, 2)]).toEqual([10, 20, 11, 21, 30, 40, 31, 41]);
  });

  it('says what the layer is', () => {
    const shape = parseShape('shape', '512,128,704,64,6');
    const files = { router: 'router.f32', up: 'up.f32', down: 'down.f32' };
    const attributes = [
      ['activation_type', 'swiglu', 'string'] as const,
      ['activation_alpha', 1, 'float'] as const,
    ];
    const model = decode(moeModel(shape, attributes, files));
    const [graph] = model.get(7)! as [Buffer];
    const nodes = (decode(graph).get(1) as Buffer[]).map(decode);
    expect(nodes.map(node => [...strings(node, 4), ...strings(node, 7)])).toEqual([
      ['Gemm', ''],
      ['MoE', 'com.microsoft'],
    ]);
    expect(strings(nodes[1]!, 1)).toEqual(['x', 'logits', 'up', '', 'down']);
    const moe = (nodes[1]!.get(5) as Buffer[]).map(decode);
    const values = moe.map(attribute => [
      ...strings(attribute, 1),
      attribute.get(3)?.[0] ?? (attribute.has(4) ? strings(attribute, 4)[0] : attribute.get(2)![0]),
    ]);
    expect(Object.fromEntries(values)).toEqual({
      ...{ k: 6, normalize_routing_weights: 1, activation_type: 'swiglu', activation_alpha: 1 },
    });
    const weights = (decode(graph).get(5) as Buffer[]).map(decode);
    expect(weights.map(weight => [...strings(weight, 8), weight.get(1)])).toEqual([
      ['router', [64, 128]],
      ['up', [64, 1408, 128]],
      ['down', [64, 128, 704]],
    ]);
    const places = weights.map(weight => strings(decode(weight.get(13)![0] as Buffer), 2)[0]);
    expect(places).toEqual(Object.values(files));
  });

  type Field = number | Buffer;

  /** The fields of a message by number; nested messages and strings as bytes. */
  function decode(bytes: Buffer): Map<number, Field[]> {
    const fields = new Map<number, Field[]>();
    let at = 0;
    const varint = () => {
      let value = 0;
      for (let factor = 1; ; factor *= 128) {
        const byte = bytes[at++]!;
        value += (byte & 127) * factor;
        if (byte < 128) return value;
      }
    };
    while (at < bytes.length) {
      const tag = varint();
      const wireType = tag & 7;
      let value: Field;
      if (wireType === 0) value = varint();
      else if (wireType === 5) {
        value = bytes.readFloatLE(at);
        at += 4;
      } else {
        const length = varint();
        value = bytes.subarray(at, at + length);
        at += length;
      }
      fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), value]);
    }
    return fields;
  }

  function strings(message: Map<number, Field[]>, field: number): string[] {
    return (message.get(field) ?? []).map(value => (value as Buffer).toString());
  }
});

describe('the command', () => {
  const main = fileURLToPath(new URL('../../bench/peers/main.ts', import.meta.url));
  const command = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', main, ...args], {
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  };

  it('explains itself', () => {
    const { status, stdout } = command('--help');
    for (const word of ['--shape', 'qwen3-mini', 'onnxruntime-node', 'ggml', 'tfjs-wasm', 'torch', '--json'])
      expect(stdout).toContain(word);
    expect(status).toBe(0);
  });

  it.each([
    ['--peers jax', '--peers: expected one of onnxruntime-node, ggml, tfjs-wasm, torch, got "jax"'],
    ['--rounds 5', '--rounds: expected an integer from 6 to 1000, got 5'],
    ['--tokens 4,0', '--tokens: expected an integer from 1 to 2147483647, got 0'],
    [
      '--peers torch --python /nowhere/python',
      '--peers: expected torch to be here, got spawnSync /nowhere/python ENOENT',
    ],
    ['--peers ggml', '--peers: expected ggml to be here, got no checkout of it (--ggml)'],
    ['--pass backward', '--pass: expected one of forward, both, got "backward"'],
  ])('%s is refused in one sentence', (line, sentence) => {
    expect(command(...line.split(' '))).toEqual({
      status: 2,
      stdout: '',
      stderr: `moe-kernels: ${sentence}\n`,
    });
  });
});
