// A call like an earlier one is neither checked nor described again: it must be the same call all the same, on its own tensors.

import { afterEach, beforeEach, describe, expect, it, type MockInstance, test, vi } from 'vitest';
import {
  capture,
  dispatch,
  groupedMatmul,
  groupedMatmulWgrad,
  MoELayer,
  memory,
  moeForward,
  type RouteArgs,
  type Routing,
  type RoutingRun,
  route,
  routerLoss,
  synchronize,
  type Tensor,
  unpermute,
  updateSelectionBias,
} from '../../src/index.ts';
import { native } from '../../src/native.ts';
import { collectUntil } from '../lifetime/support/collect.ts';
import { expectSameBytes } from '../support/compare.ts';
import { type LayerCase, layerInputs, runLayer, uploadLayer } from '../support/layer.ts';
import { LAYERS, LAYOUTS, layerTitle, SHARED } from '../support/layers.ts';
import { seeded } from '../support/random.ts';
import { runSeparateOps } from '../support/separate-ops.ts';
import { DEVICES } from '../support/targets.ts';
import { download, downloadBytes, free, upload } from '../support/tensors.ts';

const SIZES: LayerCase = { tokens: 11, hidden: 24, intermediate: 20, experts: 6, topK: 2, bias: true };
const ALL = [...LAYERS, ...LAYOUTS, ...SHARED].map(layer => ({ layer, title: layerTitle(layer) }));

let repeated: MockInstance<typeof native.run>;
beforeEach(() => {
  repeated = vi.spyOn(native, 'run');
});
afterEach(() => {
  repeated.mockRestore();
});

/** How often `call` did again what an earlier call did. */
function repeats(call: () => void): number {
  const before = repeated.mock.calls.length;
  call();
  return repeated.mock.calls.length - before;
}

/** `run` of two inputs by turns: described, recorded, and repeated from then on. */
function expectRepeatable(run: (seed: number) => unknown): void {
  const [first, second] = [run(1), run(2)];
  for (let turn = 0; turn < 2; turn++) {
    const count = repeats(() => {
      expectSameBytes(`first, repeat ${turn}`, run(1), first);
      expectSameBytes(`second, repeat ${turn}`, run(2), second);
    });
    expect(count).toBeGreaterThan(0);
  }
}

const values = (shape: readonly number[], seed: number) =>
  upload(seeded(seed).normals(shape.reduce((a, b) => a * b, 1)), shape, 'float32');

// In one dtype, which is a part of the signature like any other.
describe.each(DEVICES)('calls repeated on %s', device => {
  const inputsOf = (layer: Partial<LayerCase>, seed: number) =>
    layerInputs({ ...SIZES, ...layer }, 'bfloat16', seed);

  test.each(ALL)('fused: $title', ({ layer }) => {
    expectRepeatable(seed => downloadBytes(runLayer(inputsOf(layer, seed), { device })));
  });

  test.each(ALL.filter(({ layer: { given, separate, lora } }) => !given && !separate && !lora))(
    'one by one: $title',
    ({ layer }) => expectRepeatable(seed => runSeparateOps(inputsOf(layer, seed), { device })),
  );

  test('inference, and a cast', () => {
    expectRepeatable(seed => {
      const { y, routing } = moeForward(uploadLayer(inputsOf({}, seed), device));
      const { run: _, router: __, ...tensors } = routing as Routing;
      return downloadBytes({ y, wide: y.cast('float32'), tensors });
    });
  });
});

describe.each(DEVICES)('a layer on %s', device => {
  test('forward, training and backward leave nothing behind', () => {
    const config = { hidden: 24, intermediate: 20, experts: 4, topK: 2, device };
    using layer = new MoELayer(config, { seed: 3 });
    const x = upload(seeded(1).normals(5 * 24), [5, 24], 'float32', device);
    const run = () => {
      const { y, routing, saved } = layer.forwardTrain(x);
      const { dx, gradients } = layer.backward(saved, x);
      const results = downloadBytes({ y, dx, gradients, inference: layer.forward(x) });
      saved.dispose();
      free(routing);
      return results;
    };
    const first = run();
    run();
    const before = memory();
    for (let turn = 0; turn < 3; turn++) {
      const count = repeats(() => expectSameBytes(`turn ${turn}`, run(), first));
      expect(count).toBe(3);
    }
    synchronize(device);
    expect(memory().tensors).toBe(before.tensors);
    expect(memory().bytes).toBe(before.bytes);
  });

  test('is captured as it is called', () => {
    const config = { hidden: 24, intermediate: 20, experts: 4, topK: 2, device };
    using layer = new MoELayer(config, { seed: 3 });
    const [first, second] = [1, 2].map(seed => seeded(seed).normals(5 * 24)) as [Float32Array, Float32Array];
    const x = upload(second, [5, 24], 'float32', device);
    for (let call = 0; call < 3; call++) layer.forward(x).dispose();
    using uncaptured = layer.forward(x);
    const expected = uncaptured.dataSync();
    x.write(first);
    using graph = capture(device, () => layer.forward(x));
    expect(repeated).toHaveBeenCalled();
    x.write(second);
    graph.replay();
    expect(graph.result.dataSync()).toEqual(expected);
    graph.result.dispose();
  });
});

describe('what a repeated call returns', () => {
  const logits = values([3, 4], 1);
  const args: RouteArgs = { logits, topK: 2, normalize: true };
  const results = [0, 1, 2, 3].map(() => route(args));

  it('has the same parts, and the tensors that it was given', () => {
    for (const result of results) {
      expect(Object.keys(result)).toEqual(Object.keys(results[0]!));
      expect(result.logits).toBe(logits);
      expect(result.router).toEqual(results[0]!.router);
      expect(result.run).toEqual(results[0]!.run);
    }
    expect(new Set(results.map(({ weights }) => weights)).size).toBe(4);
  });

  it('shares what no call changes', () => {
    const { run } = results[3]!;
    expect(() => {
      (run as { -readonly [key in keyof RoutingRun]: RoutingRun[key] }).rows = 7;
    }).toThrow(TypeError);
    for (const { weights, indices, counts } of results) free({ weights, indices, counts });
    free(logits);
  });

  it('may be an object that was given', () => {
    const inputs = layerInputs({ ...SIZES, given: (t, k) => (t + k) % 6 }, 'float32');
    const given = uploadLayer(inputs);
    for (let call = 0; call < 4; call++) {
      const { y, routing } = moeForward({ ...given });
      expect(routing).toBe(given.routing);
      y.dispose();
    }
  });
});

describe('what makes another call', () => {
  const weightsOf = (args: RouteArgs) => {
    const { router: _, run: __, logits, ...made } = route(args);
    return download(made).weights;
  };

  it('another option', () => {
    const logits = values([3, 4], 1);
    for (let turn = 0; turn < 4; turn++) {
      expect(weightsOf({ logits, topK: 1 }).length).toBe(3);
      expect(weightsOf({ logits, topK: 2 }).length).toBe(6);
      expect(weightsOf({ logits, topK: 2, scale: 2 })[0]).toBe(2 * weightsOf({ logits, topK: 2 })[0]!);
    }
  });

  it('an option within an option', () => {
    const logits = values([3, 4], 1);
    const groups = { count: 2, top: 1 };
    const indices = () => {
      const { router: _, run: __, logits: ___, ...made } = route({ logits, topK: 2, groups });
      return download(made).indices;
    };
    for (let turn = 0; turn < 4; turn++) {
      groups.top = 1;
      const limited = indices();
      expect(Math.floor(limited[0]! / 2)).toBe(Math.floor(limited[1]! / 2));
      groups.top = 2;
      const free = indices();
      expect([...free].map(id => Math.floor(id / 2))).not.toEqual([...limited].map(id => Math.floor(id / 2)));
    }
  });

  it('an option that an object inherits', () => {
    const logits = values([3, 4], 1);
    class Options {
      logits = logits;
      topK = 2;
      get scale() {
        return 4;
      }
    }
    for (let turn = 0; turn < 4; turn++) weightsOf({ logits, topK: 2 });
    expect(weightsOf(new Options())[0]).toBe(4 * weightsOf({ logits, topK: 2 })[0]!);
  });

  it('a tensor of another shape or dtype', () => {
    for (let turn = 0; turn < 4; turn++) {
      for (const tokens of [3, 4, 0]) {
        expect(weightsOf({ logits: values([tokens, 4], 1), topK: 2 }).length).toBe(2 * tokens);
      }
      const x = values([2, 3], 1);
      for (const dtype of ['bfloat16', 'float16', 'float32'] as const) {
        using cast = x.cast(dtype);
        expect(cast.dtype).toBe(dtype);
      }
    }
  });

  it('two tensors where there was one twice', () => {
    const [a, b] = [values([3, 4], 1), values([3, 4], 2)];
    const offsets = upload([0, 3], [2], 'int32');
    const product = (dOut: Tensor, rows: Tensor) =>
      download(groupedMatmulWgrad({ dOut, rows, offsets }).dWeight);
    const expected = product(a, b);
    for (let turn = 0; turn < 4; turn++) product(a, a);
    expect(product(a, b)).toEqual(expected);
    expect(product(a, a)).not.toEqual(expected);
  });

  it('one tensor twice where there were two does not', () => {
    const [a, b] = [values([3, 4], 1), values([3, 4], 2)];
    const offsets = upload([0, 3], [2], 'int32');
    const product = (dOut: Tensor, rows: Tensor) =>
      download(groupedMatmulWgrad({ dOut, rows, offsets, transposed: false }).dWeight);
    const expected = product(b, b);
    for (let turn = 0; turn < 4; turn++) product(a, b);
    expect(repeats(() => expect(product(b, b)).toEqual(expected))).toBe(1);
  });
});

describe('a mistake after good calls', () => {
  const good = () => {
    const rows = values([3, 4], 1);
    const weight = values([1, 2, 4], 2);
    return { rows, weight, offsets: upload([0, 3], [2], 'int32') };
  };
  const refused = (args: object) => {
    const before = memory().tensors;
    expect(() => groupedMatmul(args as Parameters<typeof groupedMatmul>[0])).toThrow(
      expect.objectContaining({ name: 'MoeError' }),
    );
    expect(memory().tensors).toBe(before);
  };

  it('is refused as it would have been before them', () => {
    const args = good();
    for (let call = 0; call < 4; call++) groupedMatmul(args).out.dispose();
    refused({ ...args, activation: 'swish' });
    refused({ ...args, activtion: 'silu' });
    refused({ ...args, rows: new Float32Array(12) });
    refused({ ...args, offsets: undefined });
    refused({ ...args, weight: args.rows });
    args.weight.dispose();
    expect(() => groupedMatmul(args)).toThrow(/^weight: expected a live tensor, got a disposed one$/);
  });

  it('that only the kernel sees is told at the next wait, by the name of its op', () => {
    const indices = upload([0, 1, 1, 0], [2, 2], 'int32');
    for (let call = 0; call < 4; call++) free(dispatch({ indices, experts: 2 }));
    synchronize();
    indices.write(new Int32Array([0, 1, 5, 0]));
    const permutation = dispatch({ indices, experts: 2 });
    expect(() => permutation.slotRow.dataSync()).toThrow(/^dispatch: .*got 5/);
    synchronize();
    free(permutation);
  });
});

it('ops without results, and those added to, are repeated in place', () => {
  const selectionBias = upload([0, 0, 0, 0], [4], 'float32');
  const counts = upload([4, 0, 1, 1], [4], 'int32');
  for (let call = 0; call < 5; call++) updateSelectionBias({ selectionBias, counts, rate: 0.5 });
  expect(selectionBias.dataSync()).toEqual(new Float32Array([-2.5, 2.5, 2.5, 2.5]));
  const rows = values([2, 3], 1);
  const indices = upload([0, 0], [2, 1], 'int32');
  const permutation = dispatch({ indices, experts: 1 });
  const accumulateInto = upload(new Float32Array(6), [2, 3], 'float32');
  for (let call = 0; call < 4; call++) {
    expect(unpermute({ rows, dispatch: permutation, accumulateInto })).toBe(accumulateInto);
  }
  const expected = rows.dataSync().map(value => value + value + value + value);
  expect(accumulateInto.dataSync()).toEqual(expected);
  free(permutation);
});

it('remembered calls keep no tensor alive', async () => {
  // The spy keeps what it was called with.
  repeated.mockRestore();
  const use = () => {
    for (let call = 0; call < 4; call++) {
      const logits = seeded(9).normals(12);
      const routing = route({ logits: upload(logits, [3, 4], 'float32').reshape([3, 4]), topK: 3 });
      routerLoss({ routing, loadBalance: 0.5 });
    }
  };
  const before = memory().tensors;
  use();
  expect(memory().tensors).toBeGreaterThan(before + 4 * 5);
  expect(await collectUntil(() => memory().tensors <= before + 4)).toBe(true);
});
