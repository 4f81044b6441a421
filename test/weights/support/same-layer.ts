// Whether a loaded layer is the one expected: the bits of each parameter, the configuration, and a forward pass.

import { expect } from 'vitest';
import type { MoELayer, Tensor } from '../../../src/index.ts';
import { expectSameBytes } from '../../support/compare.ts';
import { seeded } from '../../support/random.ts';
import { download, downloadBytes, upload } from '../../support/tensors.ts';

const SEQUENCES = 2;
const SEQUENCE_LENGTH = 6;

export function expectSameLayer(loaded: MoELayer, direct: MoELayer): void {
  expect(Object.keys(loaded.parameters).sort()).toEqual(Object.keys(direct.parameters).sort());
  for (const [name, parameter] of Object.entries(direct.parameters)) {
    const found = loaded.parameters[name]!;
    expect([name, found.dtype, ...found.shape]).toEqual([name, parameter.dtype, ...parameter.shape]);
    expectSameBytes(name, bytesOf(found), bytesOf(parameter));
  }
  expect(loaded.config).toEqual(direct.config);
  const { hidden, dtype } = direct.config;
  const tokens = SEQUENCES * SEQUENCE_LENGTH;
  const x = upload(seeded(5).normals(tokens * hidden), [tokens, hidden], dtype);
  const perSequence = direct.config.router.capacity?.per === 'sequence';
  const call = perSequence ? { sequenceLength: SEQUENCE_LENGTH } : {};
  const expected = direct.forward(x, call);
  expectSameBytes('y', downloadBytes(loaded.forward(x, call)), bytesOf(expected));
  const y = download(expected);
  expect(y.some(value => value !== 0) && y.every(Number.isFinite)).toBe(true);
}

function bytesOf(tensor: Tensor): Buffer {
  const { buffer, byteOffset, byteLength } = tensor.dataSync();
  return Buffer.from(buffer, byteOffset, byteLength);
}
