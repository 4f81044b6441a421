// Reading golden cases: what this package cannot run, and files that are not of the form, are refused by name.

import { describe, expect, test } from 'vitest';
import { readGolden } from '../../src/golden.ts';
import { type CaseConfig, CONFIG, goldenFile, goldenTensors } from './support/golden.ts';
import { type FileTensor, type FileTensors, safetensors, temporaryFiles } from './support/safetensors.ts';

const { write } = temporaryFiles();
const TENSORS = goldenTensors();

async function expectRefused(content: Uint8Array, code: string, sentence: string): Promise<void> {
  const path = write('refused.safetensors', content);
  const error = await readGolden(path).then(
    () => expect.fail('the file was accepted'),
    (error: unknown) => error,
  );
  expect(error).toMatchObject({ name: 'MoeError', code });
  expect((error as Error).message).toBe(`${path}: ${sentence}`);
}

const withLayer = (changes: CaseConfig): CaseConfig => ({ ...CONFIG, ...changes });
const withRouter = (changes: CaseConfig): CaseConfig => ({
  ...CONFIG,
  router: { ...CONFIG.router, ...changes },
});
const withGroups = (changes: CaseConfig): CaseConfig =>
  withRouter({ groups: { count: 5, top: 4, score: 'max', maskValue: 0, ...changes } });
const withCapacity = (changes: CaseConfig): CaseConfig =>
  withRouter({ capacity: { tokensPerExpert: 8, dropPolicy: 'position', ...changes } });
const without = (key: string): CaseConfig => withLayer({ [key]: undefined });

test('a case that is supported is read whole', async () => {
  const golden = await readGolden(write('good.safetensors', goldenFile()));
  expect(golden).toMatchObject({
    ...{ name: 'small', tokens: 7 },
    config: { hidden: 8, intermediate: 6, experts: 5, topK: 2, activation: 'swiglu', bias: false },
  });
  expect(golden.config.router).toEqual({
    score: 'softmax',
    softmaxOver: 'all',
    normalize: true,
  });
  expect(golden.parameters.get('experts.gate_up')).toEqual({
    values: TENSORS['experts.gate_up']!.data,
    shape: [5, 12, 8],
  });
  expect(golden.expected.gradients.get('experts.down')).toEqual(TENSORS['d.experts.down']!.data);
  expect(golden.expected.indices).toEqual(TENSORS['topk.index']!.data);
});

test('every key of the form is read', async () => {
  const groups = { count: 2, top: 1, score: 'top2sum', maskValue: '-inf' };
  const capacity = { tokensPerExpert: 4, dropPolicy: 'position' };
  const router = {
    ...CONFIG.router,
    selectionBias: true,
    expertScale: true,
    bias: true,
    scale: 2,
    groups,
    capacity,
  };
  const config: CaseConfig = {
    ...withLayer({ router, identityExperts: 1, applyWeightTo: 'input', bias: true }),
    ...{ activation: 'swiglu_clamped', activationLimit: 7, activationAlpha: 1.702, activationUpShift: 1 },
    shared: { intermediate: 3, gate: 'sigmoid' },
  };
  const golden = await readGolden(write('every.safetensors', goldenFile(config)));
  const { name, source, tokens, ...layer } = config;
  expect(golden).toMatchObject({ name, tokens });
  expect(golden.config).toEqual({
    ...layer,
    router: { ...router, groups: { ...groups, maskValue: -Infinity } },
  });
  expect([...golden.parameters].map(([key, { shape }]) => [key, shape])).toEqual(
    expect.arrayContaining([
      ['router.weight', [6, 8]],
      ['router.bias', [6]],
      ['router.selection_bias', [6]],
      ['router.expert_scale', [5]],
      ['experts.gate_up_bias', [5, 12]],
      ['shared.gate', [3, 8]],
      ['shared.up', [3, 8]],
      ['shared.down', [8, 3]],
      ['shared.router', [1, 8]],
    ]),
  );
  const trained = [...golden.parameters.keys()].filter(key => key !== 'router.selection_bias');
  expect([...golden.expected.gradients.keys()]).toEqual(trained);
});

test('what changes nothing is accepted', async () => {
  const config = {
    ...withRouter({ selectionBias: false, expertScale: false }),
    applyWeightTo: 'output',
    identityExperts: 0,
  };
  expect((await readGolden(write('defaults.safetensors', goldenFile(config, TENSORS)))).tokens).toBe(7);
});

describe('configurations that are not supported', () => {
  test.each<[string, CaseConfig]>([
    ['case.activation "toString"', withLayer({ activation: 'toString' })],
    ['case.applyWeightTo "both"', withLayer({ applyWeightTo: 'both' })],
    ['case.expertParallelism', withLayer({ expertParallelism: 1 })],
    ['case.constructor', withLayer({ constructor: 1 })],
    ['case."\\u001b[2J"', withLayer({ '\u001b[2J': 1 })],
    ['case.shared.gate "softmax"', withLayer({ shared: { intermediate: 4, gate: 'softmax' } })],
    ['case.shared.count', withLayer({ shared: { intermediate: 4, count: 2 } })],
    ['case.router.capacity.dropPolicy "random"', withCapacity({ dropPolicy: 'random' })],
    ['case.router.capacity.factor', withCapacity({ factor: 1.25 })],
    ['case.router.groups.score "mean"', withGroups({ score: 'mean' })],
    ['case.router.groups.size', withGroups({ size: 2 })],
    ['case.router.score "hash"', withRouter({ score: 'hash', softmaxOver: undefined })],
    ['case.router.softmaxOver "groups"', withRouter({ softmaxOver: 'groups' })],
    ['case.router.topK', withRouter({ topK: 2 })],
    ['case.router.normalizeEps beside normalizeMin', withRouter({ normalizeEps: 1e-9, normalizeMin: 1e-9 })],
    [
      'case.applyWeightTo "gate", case.shared.up, case.router.groups.top_p',
      { applyWeightTo: 'gate', shared: { up: 1 }, ...withRouter({ groups: { top_p: 0.5 } }) },
    ],
  ])('%s', (unsupported, config) =>
    expectRefused(
      goldenFile(config, TENSORS),
      'ERR_UNSUPPORTED',
      `case: expected only what is supported, got ${unsupported}`,
    ),
  );

  test('a key named __proto__', () => {
    const json = JSON.stringify(CONFIG).replace('{', '{"__proto__":{"bias":true},');
    return expectRefused(
      safetensors(TENSORS, { case: json }),
      'ERR_UNSUPPORTED',
      'case: expected only what is supported, got case.__proto__',
    );
  });
});

describe('configurations that are not of the form', () => {
  test.each<[string, CaseConfig]>([
    ['case.tokens: expected a value, got none', without('tokens')],
    ['case.hidden: expected a value, got none', without('hidden')],
    ['case.intermediate: expected a value, got none', without('intermediate')],
    ['case.experts: expected a value, got none', without('experts')],
    ['case.topK: expected a value, got none', without('topK')],
    ['case.activation: expected a value, got none', without('activation')],
    ['case.router: expected a value, got none', without('router')],
    ['case.router.score: expected a value, got none', withRouter({ score: undefined })],
    ['case.router.softmaxOver: expected a value, got none', withRouter({ softmaxOver: undefined })],
    ['case.tokens: expected a number, got "7"', withLayer({ tokens: '7' })],
    ['case.hidden: expected an integer from 1 to 2147483647, got 8.5', withLayer({ hidden: 8.5 })],
    ['case.hidden: expected an integer from 1 to 2147483647, got 0', withLayer({ hidden: 0 })],
    ['case.experts: expected an integer from 1 to 2147483647, got -1', withLayer({ experts: -1 })],
    [
      'case.intermediate: expected an integer from 1 to 2147483647, got 2147483648',
      withLayer({ intermediate: 2 ** 31 }),
    ],
    ['case.topK: expected a number, got null', withLayer({ topK: null })],
    ['case.topK: expected an integer from 1 to 5, got 6', withLayer({ topK: 6 })],
    ['case.activation: expected a string, got 3', withLayer({ activation: 3 })],
    ['case.bias: expected a boolean, got "yes"', withLayer({ bias: 'yes' })],
    ['case.name: expected a string, got an object (Object)', withLayer({ name: {} })],
    ['case.router: expected an object, got []', withLayer({ router: [] })],
    ['case.router.normalize: expected a boolean, got 1', withRouter({ normalize: 1 })],
    ['case.router.scale: expected a number, got "2.5"', withRouter({ scale: '2.5' })],
    ['case.router.normalizeEps: expected a number, got "1e-20"', withRouter({ normalizeEps: '1e-20' })],
    ['case.router.normalizeEps: expected a number ≥ 0, got -1', withRouter({ normalizeEps: -1 })],
    [
      'case.router.normalizeEps: expected normalize: true beside it, got normalize: false',
      withRouter({ normalize: false, normalizeEps: 1 }),
    ],
    [
      'case.router.softmaxOver: expected score: softmax beside it, got score: sigmoid',
      withRouter({ score: 'sigmoid' }),
    ],
    [
      'case.router.jitterEps: expected a value, got none',
      withRouter({ score: 'sparsemixer', softmaxOver: undefined }),
    ],
    [
      'case.router.jitterEps: expected score: sparsemixer beside it, got score: softmax',
      withRouter({ jitterEps: 0.01 }),
    ],
    [
      'case.router.topK: expected 2 with sparsemixer, got 1',
      { ...withRouter({ score: 'sparsemixer', softmaxOver: undefined, jitterEps: 0.01 }), topK: 1 },
    ],
    [
      'case.router.selectionBias: expected false with sparsemixer, got true',
      withRouter({ score: 'sparsemixer', softmaxOver: undefined, jitterEps: 0.01, selectionBias: true }),
    ],
    ['case.router.selectionBias: expected a boolean, got 0.5', withRouter({ selectionBias: 0.5 })],
    ['case.router.expertScale: expected a boolean, got []', withRouter({ expertScale: [] })],
    ['case.router.groups: expected an object, got 4', withRouter({ groups: 4 })],
    ['case.router.groups.count: expected a value, got none', withGroups({ count: undefined })],
    ['case.router.groups.top: expected a value, got none', withGroups({ top: undefined })],
    ['case.router.groups.score: expected a value, got none', withGroups({ score: undefined })],
    ['case.router.groups.maskValue: expected a value, got none', withGroups({ maskValue: undefined })],
    ['case.router.groups.maskValue: expected 0 or "-inf", got -1', withGroups({ maskValue: -1 })],
    [
      'case.router.groups.maskValue: expected 0 or "-inf", got "-Infinity"',
      withGroups({ maskValue: '-Infinity' }),
    ],
    ['case.router.groups.maskValue: expected 0 or "-inf", got null', withGroups({ maskValue: -Infinity })],
    ['case.router.groups.count: expected a divisor of 5 experts, got 2', withGroups({ count: 2 })],
    ['case.router.groups.top: expected an integer from 1 to 5, got 6', withGroups({ top: 6 })],
    [
      'case.router.groups.top: expected groups with at least topK = 2 members in all, got 1 of 1',
      withGroups({ top: 1 }),
    ],
    [
      'case.router.groups.score: expected max for groups of one expert, got top2sum',
      withGroups({ score: 'top2sum' }),
    ],
    ['case.router.capacity: expected an object, got 8', withRouter({ capacity: 8 })],
    [
      'case.router.capacity.tokensPerExpert: expected a value, got none',
      withCapacity({ tokensPerExpert: undefined }),
    ],
    ['case.router.capacity.dropPolicy: expected a value, got none', withCapacity({ dropPolicy: undefined })],
    [
      'case.router.capacity.tokensPerExpert: expected an integer from 1 to 2147483647, got 0',
      withCapacity({ tokensPerExpert: 0 }),
    ],
    ['case.shared: expected an object, got true', withLayer({ shared: true })],
    ['case.shared.intermediate: expected a value, got none', withLayer({ shared: {} })],
    ['case.shared.gate: expected a string, got true', withLayer({ shared: { intermediate: 4, gate: true } })],
    [
      'case.identityExperts: expected an integer from 0 to 2147483647, got -1',
      withLayer({ identityExperts: -1 }),
    ],
    ['case.applyWeightTo: expected a string, got 1', withLayer({ applyWeightTo: 1 })],
    ['case.activationLimit: expected a value, got none', withLayer({ activation: 'swiglu_clamped' })],
    [
      'case.activationAlpha: expected a value, got none',
      withLayer({ activation: 'swiglu_clamped', activationLimit: 7 }),
    ],
    [
      'case.activationUpShift: expected a value, got none',
      withLayer({ activation: 'swiglu_clamped', activationLimit: 7, activationAlpha: 1.702 }),
    ],
    ['case.activationLimit: expected a number, got "7"', withLayer({ activationLimit: '7' })],
    ['case.activationLimit: expected a number above 0, got -7', withLayer({ activationLimit: -7 })],
    [
      'case.activationLimit: expected activation swiglu or swiglu_clamped beside it, got relu',
      withLayer({ activation: 'relu', activationLimit: 7 }),
    ],
    [
      'case.activationAlpha: expected activation swiglu_clamped beside it, got swiglu',
      withLayer({ activationAlpha: 1.702 }),
    ],
  ])('%s', (sentence, config) => expectRefused(goldenFile(config, TENSORS), 'ERR_FILE', sentence));

  test.each([
    ['__metadata__.case: expected a configuration, got none', undefined],
    ['case: expected an object, got []', '[]'],
    ['__metadata__.case: expected JSON, got Unexpected end of JSON input', ''],
    ['__metadata__.case: expected JSON, got the key "tokens" twice', '{"tokens":7,"tokens":8}'],
  ])('%s', (sentence, json) =>
    expectRefused(safetensors(TENSORS, json === undefined ? {} : { case: json }), 'ERR_FILE', sentence),
  );
});

describe('tensors that are not those of the configuration', () => {
  const [x, index] = [TENSORS.x!, TENSORS['topk.index']!];
  const lacking = (name: string): FileTensors =>
    Object.fromEntries(Object.entries(TENSORS).filter(([key]) => key !== name));
  const replaced = (name: string, tensor: Partial<FileTensor>): FileTensors => ({
    ...TENSORS,
    [name]: { ...TENSORS[name]!, ...tensor },
  });
  const indices = (row: number[]) =>
    replaced('topk.index', {
      data: Int32Array.of(...row, ...(index.data as Int32Array).subarray(row.length)),
    });
  const outOfOrder = (row: string) => `topk.index[0]: expected ascending expert ids below 5, got ${row}`;

  test.each<[string, string, FileTensors]>([
    ['ERR_FILE', 'x: expected an F32 tensor [7, 8], got none', lacking('x')],
    ['ERR_FILE', 'dx: expected an F32 tensor [7, 8], got none', lacking('dx')],
    ['ERR_FILE', 'topk.index: expected an I32 tensor [7, 2], got none', lacking('topk.index')],
    ['ERR_FILE', 'topk.weight: expected an F32 tensor [7, 2], got none', lacking('topk.weight')],
    ['ERR_FILE', 'router.weight: expected an F32 tensor [5, 8], got none', lacking('router.weight')],
    ['ERR_FILE', 'experts.gate_up: expected an F32 tensor [5, 12, 8], got none', lacking('experts.gate_up')],
    ['ERR_FILE', 'd.experts.down: expected an F32 tensor [5, 8, 6], got none', lacking('d.experts.down')],
    [
      'ERR_SHAPE',
      'experts.down: expected shape [5, 8, 6], got [5, 6, 8]',
      replaced('experts.down', { shape: [5, 6, 8] }),
    ],
    [
      'ERR_SHAPE',
      'd.router.weight: expected shape [5, 8], got [40]',
      replaced('d.router.weight', { shape: [40] }),
    ],
    ['ERR_SHAPE', 'y: expected shape [7, 8], got [8, 7]', replaced('y', { shape: [8, 7] })],
    [
      'ERR_FILE',
      'dy: expected dtype F32, got F64',
      replaced('dy', { dtype: 'F64', data: new Float64Array(56) }),
    ],
    [
      'ERR_FILE',
      'x: expected dtype F32, got BF16',
      replaced('x', { dtype: 'BF16', data: new Uint16Array(56) }),
    ],
    ['ERR_FILE', 'topk.index: expected dtype I32, got F32', replaced('topk.index', { dtype: 'F32' })],
    [
      'ERR_FILE',
      'tensors: expected only those of the configuration, got "shared.up"',
      { ...TENSORS, 'shared.up': x },
    ],
    [
      'ERR_FILE',
      'tensors: expected only those of the configuration, got "router.bias"',
      { ...TENSORS, 'router.bias': x },
    ],
    ['ERR_FILE', outOfOrder('[5, 6]'), indices([5, 6])],
    ['ERR_FILE', outOfOrder('[-1, 2]'), indices([-1, 2])],
    ['ERR_FILE', outOfOrder('[3, 1]'), indices([3, 1])],
    ['ERR_FILE', outOfOrder('[3, 3]'), indices([3, 3])],
  ])('%s %s', (code, sentence, tensors) => expectRefused(goldenFile(CONFIG, tensors), code, sentence));

  test.each<[string, CaseConfig, string]>([
    ['an F32 tensor [5]', withRouter({ selectionBias: true }), 'router.selection_bias'],
    ['an F32 tensor [5]', withRouter({ expertScale: true }), 'd.router.expert_scale'],
    ['an F32 tensor [3, 8]', withLayer({ shared: { intermediate: 3 } }), 'shared.gate'],
    ['an F32 tensor [8, 3]', withLayer({ shared: { intermediate: 3 } }), 'd.shared.down'],
    ['an F32 tensor [1, 8]', withLayer({ shared: { intermediate: 3, gate: 'sigmoid' } }), 'shared.router'],
  ])('%s of %o is missing: %s', (tensor, config, name) => {
    const { [name]: _, ...rest } = goldenTensors(config);
    return expectRefused(goldenFile(config, rest), 'ERR_FILE', `${name}: expected ${tensor}, got none`);
  });

  test('a gradient of the selection bias', () => {
    const config = withRouter({ selectionBias: true });
    const tensors = goldenTensors(config);
    const more = { ...tensors, 'd.router.selection_bias': tensors['router.selection_bias']! };
    const sentence = 'tensors: expected only those of the configuration, got "d.router.selection_bias"';
    return expectRefused(goldenFile(config, more), 'ERR_FILE', sentence);
  });

  test('identity experts among the logits and the chosen', () =>
    expectRefused(
      goldenFile(withLayer({ identityExperts: 2 }), TENSORS),
      'ERR_SHAPE',
      'router.weight: expected shape [7, 8], got [5, 8]',
    ));

  test('gate_up beside gate and up', () => {
    const apart = goldenTensors(CONFIG, { apart: true });
    const both = { ...apart, 'experts.gate_up': TENSORS['experts.gate_up']! };
    return expectRefused(
      goldenFile(CONFIG, both),
      'ERR_FILE',
      'tensors: expected only those of the configuration, got "experts.gate_up"',
    );
  });
});
