// What every device records of ops and their stages: the same names, in the order of the ops, and nothing that it was not asked for.

import { afterEach, describe, expect, it } from 'vitest';
import { runProfile } from '../../bench/profile.ts';
import { parseShape } from '../../bench/shapes.ts';
import { recordCall } from '../../bench/spans.ts';
import { disposeForward, disposeGradients, type WorkloadForward } from '../../bench/workload.ts';
import {
  capture,
  type DeviceName,
  dispatch,
  type MoeForwardArgs,
  moeBackward,
  moeForward,
  synchronize,
  tensor,
} from '../../src/index.ts';
import { type NativeSpan, native } from '../../src/native.ts';
import { deviceId } from '../../src/tensor.ts';
import { run } from '../cli/support/command.ts';
import { seeded } from '../support/random.ts';
import { DEVICES } from '../support/targets.ts';

const [T, H, I, E, K] = [8, 16, 12, 4, 2];

const namesOf = (spans: readonly NativeSpan[]) =>
  spans.map(({ op, stage }) => (stage === undefined ? op : `${op} ${stage}`));

type LayerOptions = Partial<Pick<MoeForwardArgs, 'save' | 'applyWeightTo'>> & {
  router?: Partial<MoeForwardArgs['router']>;
};

/** A layer's forward and backward pass, to be called. */
function layerOn(device: DeviceName, { router, ...rest }: LayerOptions = {}) {
  const random = (shape: readonly number[], seed: number) =>
    tensor(seeded(seed).normals(shape.reduce((a, b) => a * b)), shape, { device });
  const [x, weight] = [random([T, H], 1), random([E, H], 2)];
  const experts = {
    gateUp: random([E, 2 * I, H], 3),
    down: random([E, H, I], 4),
    downBias: random([E, H], 5),
  };
  return {
    pass() {
      const forward = moeForward({
        ...{ x, experts, router: { weight, topK: K, ...router }, save: 'activations' },
        ...rest,
      }) as WorkloadForward;
      disposeGradients(moeBackward({ dy: x, saved: forward.saved! }));
      disposeForward(forward);
    },
    [Symbol.dispose]() {
      for (const each of [x, weight, ...Object.values(experts)]) each.dispose();
    },
  };
}

describe.each(DEVICES)('on %s', device => {
  const id = deviceId(device);
  // A test that fails in between leaves nothing recording.
  afterEach(() => void native.endStages(id));

  const spansOf = (on: DeviceName, options?: LayerOptions) => {
    using layer = layerOn(on, options);
    return recordCall(on, layer.pass);
  };

  it.each<[string, LayerOptions]>([
    ['as it is', {}],
    ['that is computed again, with weights on the input', { save: 'recompute', applyWeightTo: 'input' }],
    [
      'with noise and a capacity',
      { router: { step: 1, noise: { kind: 'jitter', eps: 0.1 }, capacity: { tokensPerExpert: 3 } } },
    ],
  ])('the stages of a layer %s have the names and the order of the CPU’s', (_, options) => {
    // A GPU chooses in the epilogue of the logits' product where nothing comes between.
    const fuses = device !== 'cpu' && options.router === undefined;
    const expected = namesOf(spansOf('cpu', options).spans);
    expect(expected).toContain('route choice');
    expect(namesOf(spansOf(device, options).spans)).toEqual(
      expected.filter(name => !(fuses && name === 'route choice')),
    );
  });

  it('stages lie within their op, one after the other, and ops within the call', () => {
    const { spans, elapsedMs } = spansOf(device);
    let last = 0;
    let stages: NativeSpan[] = [];
    for (const span of spans) {
      expect(span.endNs).toBeGreaterThan(span.beginNs);
      if (span.stage !== undefined) {
        stages.push(span);
        continue;
      }
      for (const part of [{ ...span, endNs: span.beginNs }, ...stages]) {
        expect([part.op, part.beginNs >= last]).toEqual([span.op, true]);
        last = part.endNs;
      }
      expect(span.endNs).toBeGreaterThanOrEqual(last);
      last = span.endNs;
      stages = [];
    }
    expect(last / 1e6).toBeLessThanOrEqual(elapsedMs);
  });

  it('nothing is recorded outside of a recording, nor in a capture', () => {
    using layer = layerOn(device);
    layer.pass();
    synchronize(device);
    expect(native.endStages(id)).toEqual([]);
    native.startStages(id);
    capture(device, layer.pass).dispose();
    expect(native.endStages(id)).toEqual([]);
    layer.pass();
    synchronize(device);
    expect(native.endStages(id)).toEqual([]);
  });

  it('a recording ends where an op fails, with the op in it', () => {
    using indices = tensor([99], [1, 1], { dtype: 'int32', device });
    const fail = () => {
      for (const part of Object.values(dispatch({ indices, experts: 4 }))) part.dispose();
    };
    native.startStages(id);
    fail();
    expect(() => synchronize(device)).toThrow(/99/);
    expect(namesOf(native.endStages(id)).at(-1)).toBe('dispatch');
    expect(() => recordCall(device, fail)).toThrow(/99/);
    expect(native.endStages(id)).toEqual([]);
  });

  it('a profile knows the cost of every stage, and adds up', async () => {
    const shape = { shape: 'small', ...parseShape('shape', '4,16,20,6,2') };
    const options = { shape, dtype: 'float32', passes: ['both'], minTimeMs: 1 } as const;
    for await (const { result } of runProfile({ ...options, device })) {
      expect(result).toMatchObject({ device, clock: device === 'cpu' ? 'wall' : 'event' });
      expect(result.stages.length).toBeGreaterThan(10);
      for (const { op, stage, floorMs, medianMs } of result.stages) {
        expect([op, stage, floorMs! > 0, medianMs > 0]).toEqual([op, expect.any(String), true, true]);
      }
      const sum = result.stages.reduce((total, { medianMs }) => total + medianMs, 0);
      expect(result.totalMs).toBeCloseTo(sum + result.betweenMs, 9);
      expect(result.betweenMs).toBeGreaterThan(0);
    }
  });

  it('the command names the device', async () => {
    const { exitCode, stdout } = await run(
      ...[
        'profile',
        '--shape',
        '4,16,20,6,2',
        '--pass',
        'forward',
        '--min-time',
        '0.001',
        '--device',
        device,
      ],
    );
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(
      device === 'cpu'
        ? /\nfloat32, forward, \d+ threads \(/
        : /\nfloat32, forward, cuda:0 \(SIMT.*\), median/,
    );
  });
});
