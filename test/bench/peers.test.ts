// Peers, but for those that are fetched or built, which are not here where tests run: what each can do beside a case, what a model
// for one looks like, and that a race times nothing that is wrong and survives whatever a peer does.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { BenchCase } from '../../bench/campaign.ts';
import { measuredPass } from '../../bench/measured-case.ts';
import { readFloats, TemporaryFolder, writeFloats } from '../../bench/peers/layer-files.ts';
import { loop } from '../../bench/peers/loop.ts';
import { PEER_NAMES, type PeerName } from '../../bench/peers/names.ts';
import { moeModel } from '../../bench/peers/onnx-model.ts';
import { interleaved } from '../../bench/peers/onnxruntime.ts';
import { computeResults, writeLayer } from '../../bench/peers/ours.ts';
import { type Peer, taskFor } from '../../bench/peers/peer.ts';
import { describeFailure, isBeside, peersNamed, preparePeers } from '../../bench/peers/peers.ts';
import { differenceBound, type PeerFailure, Races } from '../../bench/peers/race.ts';
import { takeTurns } from '../../bench/peers/turns.ts';
import { PASSES, parseShape } from '../../bench/shapes.ts';
import { Workload } from '../../bench/workload.ts';
import { ACTIVATIONS, type FloatDType, memory } from '../../src/index.ts';
import { PEER_RESULT, RESULT } from '../support/bench-result.ts';

const SHAPE = parseShape('shape', '24,16,20,6,2');
const CASE: BenchCase = {
  ...{ shape: 'small', ...SHAPE, dtype: 'float32', pass: 'forward', threads: 1, device: 'cpu' },
  cache: 'warm',
};

const shapeNamed = (shape: string) => ({ shape, ...parseShape('shape', shape) });

describe('what a peer does beside a case', () => {
  const [none, able] = ['no backward pass', 'float32'];

  it.each<[string, Partial<BenchCase>, Record<PeerName, string>]>([
    ['float32 forward', {}, { ...all(able) }],
    ['relu', { activation: 'relu' }, { ...all(able) }],
    ['a single op', { stage: 'up' }, all('no single ops')],
    ['a graph', { graph: true }, all('no captured graphs')],
    ['another router', { router: 'sigmoid' }, all('no other layer than one of softmax routing')],
    ['the same router by its name', { router: 'softmax-normalized' }, { ...all(able) }],
    ['given experts', { skew: 'one-hot' }, all('no other layer than one of softmax routing')],
    ['a model whose router is that', { ...shapeNamed('mixtral-8x7b') }, { ...all(able) }],
    [
      'a model with biases',
      { ...shapeNamed('gpt-oss-20b') },
      all('no other layer than one of softmax routing'),
    ],
    ['geglu', { activation: 'geglu' }, { ...all('no geglu'), loop: able }],
    [
      'bfloat16',
      { dtype: 'bfloat16' },
      { ...all(able), loop: 'bfloat16', torch: 'bfloat16', ggml: 'bfloat16' },
    ],
    ['float16', { dtype: 'float16' }, { ...all(able), loop: 'float16', ggml: 'float16' }],
    ['both', { pass: 'both' }, { ...all(none), torch: able }],
    ['a GPU', { device: 'cuda:1' }, { ...all('nothing for cuda:1'), loop: able, torch: able }],
  ])('%s', (_, part, expected) => {
    const found = peersNamed(PEER_NAMES).map(peer => {
      const task = taskFor(peer, { ...CASE, ...part });
      return [peer.name, typeof task === 'string' ? task : task.dtype];
    });
    expect(Object.fromEntries(found)).toEqual(expected);
  });

  function all(what: string): Record<PeerName, string> {
    return Object.fromEntries(PEER_NAMES.map(name => [name, what])) as Record<PeerName, string>;
  }
});

describe('peers that are made ready', () => {
  const options = { python: '/nowhere/python' };
  const prepare = async (names: PeerName[], cases: BenchCase[]) => {
    const said: string[] = [];
    await preparePeers('vs', peersNamed(names), cases, { ...options, say: line => said.push(line) });
    return said;
  };

  it('have what they lack said once', async () => {
    const cases = PASSES.flatMap(pass => [1, 2].map(threads => ({ ...CASE, pass, threads })));
    expect(await prepare(['loop'], cases)).toEqual(['loop has no backward pass: it is left out there']);
  });

  it('are not asked for where they can do nothing', async () => {
    const cases: BenchCase[] = [{ ...CASE, activation: 'geglu' }];
    expect(await prepare(['torch'], cases)).toEqual(['torch has no geglu: it is left out there']);
  });

  it.each<[PeerName, string]>([
    ['torch', 'vs: expected torch to be here, got spawn /nowhere/python ENOENT'],
    ['ggml', 'vs: expected ggml to be here, got no checkout of it (--ggml)'],
  ])('%s that is not here is refused', async (name, sentence) => {
    await expect(prepare([name], [CASE])).rejects.toThrow(sentence);
  });

  it('run in float32 where they lack the dtype, which is said', async () => {
    const cases = [{ ...CASE, dtype: 'float16' } as const];
    await expect(prepare(['torch'], cases)).rejects.toThrow('torch to be here');
    const said: string[] = [];
    const say = (line: string) => said.push(line);
    await preparePeers('vs', peersNamed(['torch']), cases, { python: 'true', say });
    expect(said).toEqual(['torch has no float16: it runs in float32']);
  });
});

describe('a result', () => {
  const ofLoop = { ...PEER_RESULT, peer: 'loop' } as const;

  it('has its peers beside it, or those that cannot are none of its', () => {
    const peers = peersNamed(['loop', 'onnxruntime-node']);
    expect(isBeside([], RESULT)).toBe(true);
    expect(isBeside(peers, RESULT)).toBe(false);
    expect(isBeside(peers, { ...RESULT, vs: [ofLoop] })).toBe(false);
    expect(isBeside(peers, { ...RESULT, vs: [ofLoop, PEER_RESULT] })).toBe(true);
    expect(isBeside(peers, { ...RESULT, pass: 'both' })).toBe(true);
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
  /** Where a peer finds what ours computes. */
  const ours = new TemporaryFolder();
  afterAll(() => ours[Symbol.dispose]());
  const peer = (behaviour: string, changes: Partial<Peer> = {}): Peer => ({
    name: `peer ${behaviour}` as PeerName,
    ...{ dtypes: ['float32', 'bfloat16'], passes: PASSES, activations: ACTIVATIONS, gpus: false },
    program: () => ({ command: process.execPath, args: [child, behaviour, ours.path] }),
    ...changes,
  });
  const run = async (peers: Peer[], part: Partial<BenchCase> = {}) => {
    const one = { ...CASE, ...part };
    const failures: PeerFailure[] = [];
    const onFailure = (failure: PeerFailure) => failures.push(failure);
    using workload = new Workload(one, one.dtype, 'cpu');
    using races = new Races(workload, {
      ...{ peers, rounds: 6, minTimeMs: 6, python: 'python3', onFailure },
    });
    const pass = measuredPass(workload, one.pass);
    for (const [name, values] of Object.entries(await computeResults(workload, pass)))
      writeFloats(ours.path, name, values);
    const raced = await races.run(one);
    return { raced, failures, told: failures.map(({ peer, because, reason }) => [peer, because, reason]) };
  };

  it.each(PASSES)('times what is right, %s', async pass => {
    const before = memory().tensors;
    const { raced, failures } = await run([peer('1.000001')], { pass });
    expect(failures).toEqual([]);
    const { timing, vs } = raced!;
    expect(timing.runs).toBeGreaterThanOrEqual(6);
    expect(timing.medianMs).toBeGreaterThan(0);
    const [theirs] = vs;
    expect(theirs).toMatchObject({ peer: 'peer 1.000001', version: '1.2.3', dtype: 'float32', threads: 1 });
    expect(theirs).toMatchObject({ medianMs: 1000, p10Ms: 1000, p90Ms: 1000, runs: 6 });
    expect(theirs!.difference).toBeCloseTo(1e-6, 7);
    const { ratio, ratioLow, ratioHigh } = theirs!;
    expect(ratioLow).toBeGreaterThan(1);
    expect([ratioLow, ratio, ratioHigh]).toEqual([ratioLow, ratio, ratioHigh].sort((a, b) => a - b));
    expect(memory().tensors).toBe(before);
  });

  it('in float32 beside bfloat16 is held to what bfloat16 can', async () => {
    const float32 = { dtypes: ['float32'] } as const;
    const { raced, told } = await run([peer('1.01', float32), peer('1.1', float32)], { dtype: 'bfloat16' });
    expect(raced!.vs.map(({ peer, dtype }) => [peer, dtype])).toEqual([['peer 1.01', 'float32']]);
    expect(told).toEqual([['peer 1.1', 'wrong', 'its result differs from ours: y 1.0e-1 > 2.0e-2']]);
  });

  it.each([
    ['1.001', 'wrong', 'its result differs from ours: y 1.0e-3 > 1.0e-5'],
    ['NaN', 'wrong', 'its result differs from ours: y NaN > 1.0e-5'],
    ['forgets', 'wrong', 'its result differs from ours: y NaN > 1.0e-5'],
    ['refuses', 'failed', 'no room left'],
    ['dies', 'failed', 'MemoryError: too much'],
  ])('does not time one that %s', async (behaviour, because, reason) => {
    const { raced, told } = await run([peer(behaviour)]);
    expect(told).toEqual([[`peer ${behaviour}`, because, reason]]);
    expect(raced).toBeUndefined();
  });

  it('finds wrong gradients', async () => {
    const { failures } = await run([peer('1.001')], { pass: 'both' });
    const names = ['y', 'dx', 'd.router', 'd.up', 'd.down'];
    expect(failures[0]!.reason.match(/[\w.]+(?= 1\.0e-3)/g)).toEqual(names);
  });

  it('goes on without those that cannot take part', async () => {
    const cannot = peer('1', { passes: ['both'] });
    const gone = peer('1', { program: () => ({ command: '/nowhere/python', args: [] }) });
    const { raced, failures } = await run([cannot, gone, peer('1')]);
    expect(raced!.vs.map(({ peer }) => peer)).toEqual(['peer 1']);
    expect(failures.map(describeFailure)).toEqual([
      'peer 1 is not timed beside small T24 float32 forward cpu 1 thread warm: spawn /nowhere/python ENOENT',
    ]);
  });

  it.each<FloatDType>(['float32', 'bfloat16', 'float16'])(
    'beside a loop of ours over the experts, in %s',
    async dtype => {
      const { raced, failures } = await run([loop], { dtype, activation: 'geglu' });
      expect(failures).toEqual([]);
      expect(raced!.vs.map(({ peer, dtype: ran }) => [peer, ran])).toEqual([['loop', dtype]]);
      expect(raced!.vs[0]!.difference).toBeLessThan(differenceBound({ dtype }, 'y'));
    },
  );
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

  it('that cannot be written are refused in one sentence', () => {
    vi.stubEnv('TMPDIR', '/nowhere');
    const sentence = 'vs: expected a writable file, got /nowhere (ENOENT)';
    expect(() => new TemporaryFolder()).toThrow(sentence);
    vi.unstubAllEnvs();
  });

  it('are refused where there is no room for them', async () => {
    using workload = new Workload(SHAPE, 'float32', 'cpu');
    await expect(writeLayer(workload, '/nowhere')).rejects.toThrow('vs: expected a writable file');
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
