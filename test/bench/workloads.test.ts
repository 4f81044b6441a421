// Layers of models and routers of every kind as workloads: made as the model has them, checked whole, and counted by their rows.

import { describe, expect, it } from 'vitest';
import { checkWorkload } from '../../bench/check.ts';
import { ROUTER_NAMES, withRouter } from '../../bench/layer-design.ts';
import { MODEL_LAYERS } from '../../bench/model-layers.ts';
import { designOf, withRouters } from '../../bench/routed-shapes.ts';
import { loadOfExperts, Workload, type WorkloadForward } from '../../bench/workload.ts';
import { memory, presets, type SaveMode, type Tensor } from '../../src/index.ts';

const models = [...MODEL_LAYERS].filter(([name]) => !name.endsWith(':decode'));
const SMALL = { tokens: 24, hidden: 32, intermediate: 12 };
const layer = (name: string) => MODEL_LAYERS.get(name)!;
const shrunk = (name: string) => {
  const { shape, design } = layer(name);
  return { shape: { ...shape, ...SMALL }, design };
};

const wrong = async (workload: Workload) =>
  (await checkWorkload(workload, true)).filter(({ holds }) => !holds).map(({ name }) => name);

describe('the layers of models', () => {
  it('are those of the presets, in prefill and in decode', () => {
    expect(models).toHaveLength(Object.keys(presets).length);
    expect(MODEL_LAYERS.size).toBe(2 * models.length);
    const { hidden, intermediate, experts, topK } = presets.mixtral8x7b;
    const mixtral = { hidden, intermediate, experts, topK, activation: 'swiglu' };
    expect(layer('mixtral-8x7b').shape).toEqual({ ...mixtral, tokens: 4096 });
    expect(layer('mixtral-8x7b:decode').shape).toEqual({ ...mixtral, tokens: 1 });
    expect(layer('gpt-oss-20b').design).toMatchObject({
      ...{ bias: true, activationLimit: 7, activationAlpha: 1.702, activationUpShift: 1 },
      router: presets.gptOss20b.router,
    });
    expect(layer('llama-4-scout').design.applyWeightTo).toBe('input');
    expect(layer('longcat-flash').design.identityExperts).toBe(256);
    expect(layer('expert-choice-8b').shape.topK).toBe(2);
    expect(layer('mixture-of-depths').shape.topK).toBe(1);
  });

  it.each(models.map(([name]) => name))('%s is right', async name => {
    const before = memory().tensors;
    const { shape, design } = shrunk(name);
    {
      using workload = new Workload(shape, 'float32', 'cpu', { design });
      expect(await wrong(workload)).toEqual([]);
      const published = ['bias', 'selectionBias'] as const;
      for (const flag of published)
        expect(workload.router[flag] !== undefined).toBe(design.router[flag] ?? false);
      expect(workload.experts.downBias !== undefined).toBe(design.bias ?? false);
    }
    expect(memory().tensors).toBe(before);
  });

  it('keep the numbers of their own activation alone', () => {
    const name = 'gpt-oss-20b';
    const given = { ...layer(name).shape, shape: name };
    expect(designOf(given)).toEqual(layer(name).design);
    const other = designOf({ ...given, activation: 'relu' });
    expect([other.bias, other.activationLimit, other.activationAlpha]).toEqual([true, undefined, undefined]);
  });
});

describe('routers', () => {
  const shape = { ...SMALL, experts: 16, topK: 2, activation: 'swiglu' } as const;

  it.each(
    ROUTER_NAMES.flatMap(name => (['float32', 'bfloat16'] as const).map(dtype => [name, dtype] as const)),
  )('%s in %s is right', async (name, dtype) => {
    using workload = new Workload(shape, dtype, 'cpu', { design: withRouter({ router: {} }, name, shape) });
    expect(await wrong(workload)).toEqual([]);
  });

  it('replace the shape’s own, and leave the rest of the layer as it is', () => {
    const given = { shape: 'longcat-flash', ...layer('longcat-flash').shape };
    const [own, sigmoid] = withRouters('--router', [given], ['own', 'sigmoid']);
    expect([own!.router, designOf(own!).router]).toEqual([undefined, presets.longcatFlash.router]);
    expect([sigmoid!.router, designOf(sigmoid!).router]).toEqual(['sigmoid', { score: 'sigmoid' }]);
    expect(designOf(sigmoid!).identityExperts).toBe(256);
  });

  it('load experts with the rows that are served', () => {
    const loadOf = (name: string) => {
      const given = shrunk(name);
      using workload = new Workload(given.shape, 'float32', 'cpu', { design: given.design });
      return loadOfExperts(workload);
    };
    // Of 24 tokens an eighth, and two of 64 experts each.
    expect(loadOf('mixture-of-depths')).toEqual([3]);
    expect(loadOf('expert-choice-8b')).toEqual(Array(64).fill(1));
    const computed = loadOf('longcat-flash');
    const rows = computed.reduce((a, b) => a + b);
    expect([computed.length, rows < 24 * 12, rows > 0]).toEqual([512, true, true]);
  });
});

/** Writes other numbers into what one part of a forward pass made. */
class Damaged extends Workload {
  damage: (forward: WorkloadForward) => void = () => {};

  override forward(save: SaveMode) {
    const made = super.forward(save);
    this.damage(made);
    return made;
  }
}

function change(tensor: Tensor, at: number, to: (before: number) => number): void {
  const values = tensor.dataSync() as Float32Array | Int32Array;
  values[at] = to(values[at]!);
  tensor.write(values);
}

describe('the check of a routing', () => {
  it.each<[string, string, string, (forward: WorkloadForward) => void]>([
    ['a logit', 'olmoe', 'logits', ({ routing }) => change(routing.logits, 5, z => z + 0.1)],
    ['an expert', 'olmoe', 'topk.index', ({ routing }) => change(routing.indices, 0, e => (e + 1) % 64)],
    ['a fate', 'switch-base-128', 'topk.index', ({ routing }) => change(routing.dropped!, 3, () => 1)],
    [
      'who is chosen',
      'expert-choice-8b',
      'topk.index',
      ({ routing }) => {
        const at = (routing.dropped!.dataSync() as Int32Array).indexOf(0);
        change(routing.dropped!, at, () => 1);
      },
    ],
  ])('finds another %s', async (_, name, wanted, damage) => {
    const { shape, design } = shrunk(name);
    using workload = new Damaged(shape, 'float32', 'cpu', { design });
    workload.damage = damage;
    const found = (await checkWorkload(workload, false)).filter(({ holds }) => !holds);
    expect(found.map(comparison => comparison.name)).toContain(wanted);
  });

  it.each<[string, string, 'bias' | 'selectionBias' | 'upBias' | 'downBias']>([
    ['gpt-oss-20b', 'logits', 'bias'],
    ['deepseek-v3', 'topk.index', 'selectionBias'],
    ['gpt-oss-20b', 'y', 'downBias'],
  ])('of %s finds a wrong %s without its %s', async (name, wanted, parameter) => {
    const { shape, design } = shrunk(name);
    using workload = new Workload(shape, 'float32', 'cpu', { design });
    const forward = workload.forward.bind(workload);
    const { router, experts } = workload;
    workload.forward = save => {
      const tensor = { ...router, ...experts }[parameter]!;
      const before = tensor.dataSync();
      tensor.write(new Float32Array(tensor.size));
      const made = forward(save);
      made.y.dataSync();
      tensor.write(before as Float32Array);
      return made;
    };
    const found = (await checkWorkload(workload, false)).filter(({ holds }) => !holds);
    expect(found.map(comparison => comparison.name)).toContain(wanted);
  });
});
