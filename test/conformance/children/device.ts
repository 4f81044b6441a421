// What a process sees of its devices, printed as JSON: the scenario that its argument names.

import {
  backendInfo,
  capture,
  type DeviceName,
  devices,
  finished,
  MoELayer,
  memory,
  ones,
  synchronize,
  tensorFromPointer,
  trimMemory,
  zeros,
} from '../../../src/index.ts';

const device = (process.argv[3] ?? 'cuda:0') as DeviceName;

/** What a call or a promise fails with. */
async function failure(call: () => unknown): Promise<string> {
  try {
    await call();
    return 'no error';
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return `${code} ${message}`;
  }
}

const inUse = () => memory().pools[0]!.bytesInUse;
const settled = async () => {
  await finished(device);
  await finished(device);
};

/** The largest difference between a small layer's outputs here and on the CPU. */
async function layerError(): Promise<number> {
  const run = (on: DeviceName) => {
    const layer = new MoELayer(
      { hidden: 16, intermediate: 16, experts: 4, topK: 2, device: on },
      { seed: 1 },
    );
    using x = ones([8, 16], { device: on });
    const y = layer.forward(x);
    layer.dispose();
    return y.data().finally(() => y.dispose());
  };
  const [here, there] = [await run(device), await run('cpu')];
  return Math.max(...here.map((value, i) => Math.abs(value - there[i]!)));
}

const SCENARIOS: Readonly<Record<string, () => unknown>> = {
  found: async () => ({
    devices: devices().map(({ name }) => name),
    cuda: backendInfo().cuda,
    missing: await failure(() => zeros([1], { device })),
  }),

  works: async () => ({ error: await layerError() }),

  /** The layer's tensors fit, but not the rows that its forward works in. */
  'out of memory': async () => {
    const before = await layerError();
    await settled();
    const config = { hidden: 64, intermediate: 4096, experts: 1, topK: 1, device };
    const layer = new MoELayer(config, { seed: 1 });
    const x = ones([256, 64], { device });
    await settled();
    const free = inUse();
    const report = {
      before,
      atTheCall: await failure(() => zeros([64, 1024, 1024], { device })),
      whileRunning: await failure(async () => {
        layer.forward(x).dispose();
        await finished(device);
      }),
      whileCapturing: await failure(() => capture(device, () => layer.forward(x))),
      leaked: 0,
      after: 0,
    };
    await settled();
    report.leaked = inUse() - free;
    layer.dispose();
    x.dispose();
    report.after = await layerError();
    return report;
  },

  /** Reads past the end of an allocation: the kernel's own failure, which a GPU does not recover from. */
  'lost device': async () => {
    const layer = new MoELayer({ hidden: 16, intermediate: 16, experts: 4, topK: 2 }, { seed: 1 });
    const memory = zeros([64], { device });
    await finished(device);
    const far = tensorFromPointer(memory.pointer, 'float32', [1 << 16], { device });
    far.cast('bfloat16').dispose();
    const first = await failure(() => finished(device));
    const again = [
      await failure(() => synchronize(device)),
      await failure(() => memory.data()),
      await failure(() => zeros([4], { device })),
    ];
    using x = ones([8, 16]);
    const y = await layer.forward(x).data();
    return { first, again, cpu: y.every(Number.isFinite) };
  },

  /** Copies larger than what may be kept for the next. */
  pinned: async () => {
    const big = zeros([1 << 20], { device });
    big.write(new Float32Array(1 << 20));
    big.dataSync();
    await settled();
    return { kept: memory().pinnedBytes };
  },

  'many captures': async () => {
    const x = ones([4096], { device });
    const rounds = [];
    for (let i = 0; i < 3; i++) {
      using graph = capture(device, () => x.cast('bfloat16'));
      graph.replay();
      graph.result.dispose();
      graph.dispose();
      await settled();
      trimMemory();
      rounds.push(memory().pools[0]!.bytesReserved);
    }
    return { rounds };
  },
};

console.log(JSON.stringify(await SCENARIOS[process.argv[2]!]!()));
