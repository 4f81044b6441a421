// `moe-kernels verify`: what holds, what does not, and the exit codes that say so.

import { describe, expect, test } from 'vitest';
import { ACTIVATIONS } from '../../src/index.ts';
import { type ActivationForm, CLAMPS } from '../support/activations.ts';
import { GOLDEN_CASES, goldenPath, readGolden } from '../support/golden.ts';
import { LAYERS } from '../support/layers.ts';
import { ROUTERS, type RouterVariant, routerTitle } from '../support/routers.ts';
import { jsonLines, run } from './support/command.ts';
import { type CaseConfig, CONFIG, goldenFile, goldenTensors } from './support/golden.ts';
import { temporaryFiles } from './support/safetensors.ts';

const { folder, write } = temporaryFiles();
const TENSORS = goldenTensors();
const GOLDEN = GOLDEN_CASES.map(goldenPath);
const DTYPES = ['float32', 'bfloat16', 'float16'];

interface Report {
  file: string;
  verdict: string;
  tensors?: { name: string; error: number | string; bound: number; holds: boolean }[];
  error?: { code: string; message: string };
}

const SIX_EXPERTS = { ...CONFIG, tokens: 17, experts: 6 };

/** A router with everything written out that the form has no default for. */
function routerOfTheForm({ score = 'softmax', groups, capacity, ...router }: RouterVariant): CaseConfig {
  const { maskValue = -Infinity } = groups ?? {};
  return {
    ...(score === 'softmax' && { softmaxOver: 'all' }),
    ...(score === 'sparsemixer' && { jitterEps: 0.01 }),
    ...{ ...router, score },
    ...(groups && { groups: { score: 'max', ...groups, maskValue: maskValue === 0 ? 0 : '-inf' } }),
    ...(capacity && { capacity: { dropPolicy: 'position', ...capacity } }),
  };
}

/** As {@link routerOfTheForm}. */
function activationOfTheForm({
  activation,
  activationLimit,
  activationAlpha = 1.702,
  activationUpShift = 1,
}: ActivationForm): CaseConfig {
  if (activation !== 'swiglu_clamped') return { activation, activationLimit };
  return { activation, activationLimit: activationLimit ?? 7, activationAlpha, activationUpShift };
}

/** What the form has no words for: it knows fewer options, and one way of each. */
const BEYOND_THE_FORM: readonly (keyof RouterVariant)[] = [
  ...(['level', 'topP', 'expertChoice', 'noise', 'loraRank', 'hash', 'masked', 'sequences', 'step'] as const),
];

/** Nor does it say what `normalizeEps` beside `normalizeMin` means. */
const isOfTheForm = ({ router }: { router: RouterVariant }) =>
  !BEYOND_THE_FORM.some(key => router[key] !== undefined) &&
  router.score !== 'identity' &&
  (router.capacity === undefined ||
    Object.keys(router.capacity).every(key => key === 'tokensPerExpert' || key === 'dropPolicy')) &&
  (router.normalizeEps === undefined || router.normalizeMin === undefined);

describe.each(DTYPES)('%s', dtype => {
  test('the golden cases hold', async () => {
    const { exitCode, stdout, stderr } = await run('verify', ...GOLDEN, '--dtype', dtype, '--json');
    const reports = jsonLines<Report>(stdout);
    expect(reports.map(({ file, verdict }) => [file, verdict])).toEqual(GOLDEN.map(file => [file, 'holds']));
    for (const [i, { tensors }] of reports.entries()) {
      const { tensors: stored } = readGolden(GOLDEN_CASES[i]!);
      const results = Object.keys(stored).filter(name => /^(y|dx|topk\.weight|d\..*)$/.test(name));
      expect(tensors!.map(({ name }) => name).sort()).toEqual(['topk.index', ...results].sort());
      for (const { name, error, bound } of tensors!) expect(error, name).toBeLessThanOrEqual(bound);
    }
    expect([exitCode, stderr]).toEqual([0, '']);
  });

  test.each(ACTIVATIONS)('%s, biases, gate and up apart', async activation => {
    const router = { ...CONFIG.router, bias: true };
    const config = { ...CONFIG, ...activationOfTheForm({ activation }), bias: true, router };
    const tensors = goldenTensors(config, { apart: true });
    await expectHolds(config, goldenFile(config, tensors), dtype);
  });

  test.each<CaseConfig>([
    ...LAYERS.filter(({ given }) => !given).map(({ separate, ...layer }) => ({
      ...SIX_EXPERTS,
      ...layer,
    })),
    ...CLAMPS.map(form => ({ ...CONFIG, ...form })),
  ])('%o', async layer => {
    const router = routerOfTheForm(layer.router as RouterVariant);
    const config = { ...layer, ...activationOfTheForm(layer as unknown as ActivationForm), router };
    await expectHolds(config, goldenFile(config), dtype);
  });

  test.each(ROUTERS.map(router => ({ router, title: routerTitle(router) })).filter(isOfTheForm))(
    'router: $title',
    async ({ router }) => {
      const config = { ...SIX_EXPERTS, router: routerOfTheForm(router) };
      await expectHolds(config, goldenFile(config), dtype);
    },
  );

  test.each<[string, CaseConfig]>([
    ['softmax over all', { score: 'softmax', softmaxOver: 'all' }],
    ['softmax over the selected', { score: 'softmax', softmaxOver: 'selected', scale: -1.5 }],
    ['normalised softmax', { score: 'softmax', softmaxOver: 'all', normalize: true, normalizeMin: 0.5 }],
    ['normalised sigmoid', { score: 'sigmoid', normalize: true, normalizeEps: 0.25, scale: 2.5, bias: true }],
  ])('%s', async (_, router) => {
    const config = { ...CONFIG, router };
    await expectHolds(config, goldenFile(config), dtype);
  });

  test('no tokens at all', async () => {
    const config = { ...CONFIG, tokens: 0 };
    await expectHolds(config, goldenFile(config), dtype);
  });
});

async function expectHolds(config: CaseConfig, content: Uint8Array, dtype: string): Promise<void> {
  const path = write('holds.safetensors', content);
  const { exitCode, stdout, stderr } = await run('verify', path, '--dtype', dtype, '--json');
  expect(stderr, JSON.stringify(config)).toBe('');
  expect(jsonLines<Report>(stdout)[0]!.tensors!.filter(({ holds }) => !holds)).toEqual([]);
  expect(exitCode).toBe(0);
}

/** The file of the small case with one number of one tensor changed. */
function damaged(name: string, value: number): string {
  const tensor = TENSORS[name]!;
  const data = (tensor.data as Float32Array | Int32Array).slice();
  data[data.length - 1] = value;
  return write('damaged.safetensors', goldenFile(CONFIG, { ...TENSORS, [name]: { ...tensor, data } }));
}

const FLOATS = Object.keys(TENSORS).filter(name => /^(y|dx|topk\.weight|d\..*)$/.test(name));

describe('what does not hold', () => {
  test.each(FLOATS)('a wrong number in %s', async name => {
    const last = (TENSORS[name]!.data as Float32Array).at(-1)!;
    const { exitCode, stdout } = await run('verify', damaged(name, last + 0.1), '--json');
    const [report] = jsonLines<Report>(stdout);
    expect(report!.tensors!.filter(({ holds }) => !holds).map(tensor => tensor.name)).toEqual([name]);
    expect([exitCode, report!.verdict]).toEqual([1, 'does not hold']);
  });

  test.each(FLOATS)('NaN in %s', async name => {
    const { exitCode, stdout } = await run('verify', damaged(name, Number.NaN), '--json');
    const [report] = jsonLines<Report>(stdout);
    const failed = report!.tensors!.filter(({ holds }) => !holds);
    expect(failed.map(tensor => [tensor.name, tensor.error])).toEqual([[name, 'NaN']]);
    expect(exitCode).toBe(1);
  });

  test.each(['x', 'experts.down', 'router.weight'])('NaN in %s, which the layer takes in', async name => {
    const { exitCode } = await run('verify', damaged(name, Number.NaN));
    expect(exitCode).toBe(1);
  });

  test('another set of experts', async () => {
    const chosen = (TENSORS['topk.index']!.data as Int32Array).subarray(-2);
    const other = [4, 3, 2].find(expert => !chosen.includes(expert) && expert > chosen[0]!);
    const path = other === undefined ? damagedFirst(chosen) : damaged('topk.index', other);
    const { exitCode, stdout } = await run('verify', path);
    expect(stdout).toMatch(/topk\.index +│ +1\.43e-1 │ +0 │ DOES NOT HOLD/);
    expect(exitCode).toBe(1);
  });
});

/** The small case with the lower of the last token's two experts changed. */
function damagedFirst([low, high]: Int32Array): string {
  const index = TENSORS['topk.index']!;
  const data = (index.data as Int32Array).slice();
  data[data.length - 2] = Array.from({ length: high! }, (_, expert) => expert).find(
    expert => expert !== low,
  )!;
  return write('damaged.safetensors', goldenFile(CONFIG, { ...TENSORS, 'topk.index': { ...index, data } }));
}

describe('several files', () => {
  const good = () => write('good.safetensors', goldenFile());
  const unsupported = () =>
    write('unsupported.safetensors', goldenFile({ ...CONFIG, expertChoice: true }, TENSORS));
  const truncated = () => write('truncated.safetensors', goldenFile().subarray(0, -1));
  const missing = () => `${folder}/missing.safetensors`;

  test('each gets its verdict and each error its sentence', async () => {
    const files = [unsupported(), good(), truncated(), missing()];
    const { exitCode, stdout, stderr } = await run('verify', ...files);
    expect(stdout).toContain(`${files[0]}: unsupported\n`);
    expect(stdout).toContain(`${files[1]} (small, float32 on cpu): holds\n`);
    expect(stdout).toContain(`${files[2]}: unusable\n`);
    expect(stdout).toContain(`${files[3]}: unusable\n`);
    expect(stderr.trimEnd().split('\n')).toEqual([
      `moe-kernels: ${files[0]}: case: expected only what is supported, got case.expertChoice`,
      expect.stringMatching(
        /^moe-kernels: .*truncated\.safetensors: data: expected \d+ bytes after the header, got \d+$/,
      ),
      `moe-kernels: ${files[3]}: expected a readable file, got ENOENT`,
    ]);
    expect(exitCode).toBe(2);
  });

  test('with --json errors are JSON on both streams', async () => {
    const { exitCode, stdout, stderr } = await run('verify', unsupported(), '--json');
    const error = { code: 'ERR_UNSUPPORTED', message: expect.stringContaining('case.expertChoice') };
    expect(jsonLines(stdout)).toEqual([expect.objectContaining({ verdict: 'unsupported', error })]);
    expect(jsonLines(stderr)).toEqual([{ error }]);
    expect(exitCode).toBe(2);
  });

  test('what does not hold outweighs what is unsupported', async () => {
    const { exitCode } = await run('verify', unsupported(), damaged('y', 9), good());
    expect(exitCode).toBe(1);
  });
});
