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
    bias: false,
  });
  expect(golden.parameters.get('experts.gate_up')).toEqual({
    values: TENSORS['experts.gate_up']!.data,
    shape: [5, 12, 8],
  });
  expect(golden.expected.gradients.get('experts.down')).toEqual(TENSORS['d.experts.down']!.data);
  expect(golden.expected.indices).toEqual(TENSORS['topk.index']!.data);
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
    ['case.shared', withLayer({ shared: { intermediate: 4 } })],
    ['case.shared', withLayer({ shared: { intermediate: 4, gate: 'sigmoid' } })],
    ['case.identityExperts 2', withLayer({ identityExperts: 2 })],
    ['case.applyWeightTo "input"', withLayer({ applyWeightTo: 'input' })],
    ['case.activation "swiglu_clamped"', withLayer({ activation: 'swiglu_clamped' })],
    ['case.activationLimit', withLayer({ activationLimit: 7 })],
    ['case.activation "toString"', withLayer({ activation: 'toString' })],
    ['case.expertParallelism', withLayer({ expertParallelism: 1 })],
    ['case.constructor', withLayer({ constructor: 1 })],
    ['case."\\u001b[2J"', withLayer({ '\u001b[2J': 1 })],
    ['case.router.capacity', withRouter({ capacity: { tokensPerExpert: 8, dropPolicy: 'position' } })],
    ['case.router.selectionBias true', withRouter({ selectionBias: true })],
    ['case.router.groups', withRouter({ groups: { count: 2, top: 1, score: 'max', maskValue: 0 } })],
    ['case.router.expertScale true', withRouter({ expertScale: true })],
    ['case.router.score "sqrtsoftplus"', withRouter({ score: 'sqrtsoftplus', softmaxOver: undefined })],
    [
      'case.router.score "sparsemixer", case.router.jitterEps',
      withRouter({ score: 'sparsemixer', jitterEps: 0.01 }),
    ],
    ['case.router.softmaxOver "groups"', withRouter({ softmaxOver: 'groups' })],
    ['case.router.topK', withRouter({ topK: 2 })],
    ['case.router.normalizeEps beside normalizeMin', withRouter({ normalizeEps: 1e-9, normalizeMin: 1e-9 })],
    [
      'case.applyWeightTo "input", case.shared, case.router.groups',
      { applyWeightTo: 'input', shared: {}, ...withRouter({ groups: {} }) },
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
    ['case.router.topK: expected an integer from 1 to 5, got 6', withLayer({ topK: 6 })],
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
      'case.router.softmaxOver: expected score softmax beside it, got sigmoid',
      withRouter({ score: 'sigmoid' }),
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
