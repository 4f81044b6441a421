// The reader of safetensors files: what it reads, and what it refuses of broken and hostile files.

import { closeSync, ftruncateSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { SafetensorsFile } from '../../src/safetensors.ts';
import { rawFile, safetensors, temporaryFiles } from './support/safetensors.ts';

const { folder, write } = temporaryFiles();

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') =>
  `{"dtype":${JSON.stringify(dtype)},"shape":${JSON.stringify(shape)},"data_offsets":${JSON.stringify(offsets)}}`;
const one = (shape: unknown, offsets: unknown, dtype?: unknown) => `{"a":${entry(shape, offsets, dtype)}}`;
const two = (a: [number, number], b: [number, number]) => `{"a":${entry([1], a)},"b":${entry([1], b)}}`;

/** Title, content, and the sentence after the file's name. */
const REFUSED: [string, Buffer, string][] = [
  ['an empty file', Buffer.alloc(0), 'file: expected an 8-byte header length, got 0 bytes'],
  ['half a length', Buffer.alloc(7), 'file: expected an 8-byte header length, got 7 bytes'],
  ['no header', rawFile('', 4), 'header length: expected 2 to 4 bytes, got 0'],
  [
    'a huge header',
    rawFile('{}', 0, 2n ** 63n),
    'header length: expected 2 to 2 bytes, got 9223372036854775808',
  ],
  ['a header past the end', rawFile('{}', 0, 3n), 'header length: expected 2 to 2 bytes, got 3'],
  [
    'bytes that are not UTF-8',
    rawFile(Uint8Array.of(0x7b, 0xff, 0x7d)),
    'header: expected JSON in UTF-8, got bytes that are not UTF-8',
  ],
  ['a byte order mark', rawFile('\ufeff{}'), 'header: expected JSON in UTF-8, got '],
  ['what is not JSON', rawFile('{"a":}'), 'header: expected JSON in UTF-8, got '],
  ['an unfinished string', rawFile('{"a'), 'header: expected JSON in UTF-8, got '],
  ['text after the JSON', rawFile('{}{}'), 'header: expected JSON in UTF-8, got '],
  [
    'bottomless nesting',
    rawFile('['.repeat(100_000)),
    'header: expected JSON in UTF-8, got more than 32 levels of nesting',
  ],
  [
    'a tensor named twice',
    rawFile(`{"a":${entry([1], [0, 4])},"\\u0061":${entry([1], [4, 8])}}`, 8),
    'header: expected JSON in UTF-8, got the key "a" twice',
  ],
  [
    'a key given twice',
    rawFile('{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
    'header: expected JSON in UTF-8, got the key "dtype" twice',
  ],
  ['an array', rawFile('[]'), 'header: expected an object, got []'],
  ['null', rawFile('null'), 'header: expected an object, got null'],
  ['a tensor that is null', rawFile('{"a":null}'), 'a: expected an object, got null'],
  ['a tensor that is an array', rawFile('{"a":[]}'), 'a: expected an object, got []'],
  ['a tensor __proto__ of nonsense', rawFile('{"__proto__":1}'), '__proto__: expected an object, got 1'],
  [
    'a missing key',
    rawFile('{"a":{"dtype":"F32","shape":[0]}}'),
    'a: expected the keys data_offsets, dtype, shape, got dtype, shape',
  ],
  [
    'a strange key',
    rawFile('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"__proto__":{}}}'),
    'a: expected the keys data_offsets, dtype, shape, got __proto__, data_offsets, dtype, shape',
  ],
  ['an unknown dtype', rawFile(one([1], [0, 4], 'F31'), 4), 'a.dtype: expected one of F64, F32, '],
  [
    'a dtype of the prototype',
    rawFile(one([1], [0, 4], 'constructor'), 4),
    'a.dtype: expected one of F64, F32, ',
  ],
  ['a dtype that is a number', rawFile(one([1], [0, 4], 4), 4), 'a.dtype: expected one of F64, F32, '],
  ['a negative size', rawFile(one([-1, -1], [0, 4]), 4), 'a.shape: expected an array of sizes, got [-1, -1]'],
  ['a fractional size', rawFile(one([1.5], [0, 6]), 6), 'a.shape: expected an array of sizes, got [1.5]'],
  [
    'a size that is text',
    rawFile(one(['1'], [0, 4]), 4),
    'a.shape: expected an array of sizes, got an array of length 1',
  ],
  [
    'a size beyond exactness',
    rawFile('{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}', 4),
    'a.shape: expected an array of sizes, got [9007199254740992]',
  ],
  ['a shape that is no array', rawFile(one(1, [0, 4]), 4), 'a.shape: expected an array of sizes, got 1'],
  [
    'a product that overflows',
    rawFile(one([2 ** 31, 2 ** 31, 4], [0, 0])),
    'a.data_offsets: expected Infinity bytes for F32 [2147483648, 2147483648, 4], got 0 ([0, 0])',
  ],
  [
    'too few bytes for the shape',
    rawFile(one([2], [0, 4]), 4),
    'a.data_offsets: expected 8 bytes for F32 [2], got 4 ([0, 4])',
  ],
  [
    'offsets that run backwards',
    rawFile(one([1], [4, 0]), 4),
    'a.data_offsets: expected 4 bytes for F32 [1], got -4 ([4, 0])',
  ],
  [
    'a negative offset',
    rawFile(one([1], [-4, 0]), 4),
    'a.data_offsets: expected two byte offsets, got [-4, 0]',
  ],
  [
    'a fractional offset',
    rawFile(one([1], [0.5, 4.5]), 5),
    'a.data_offsets: expected two byte offsets, got [0.5, 4.5]',
  ],
  [
    'three offsets',
    rawFile(one([1], [0, 4, 8]), 8),
    'a.data_offsets: expected two byte offsets, got [0, 4, 8]',
  ],
  ['an overlap', rawFile(two([0, 4], [2, 6]), 6), 'b.data_offsets: expected a start at 4, got 2, an overlap'],
  [
    'one tensor’s bytes given to two',
    rawFile(two([0, 4], [0, 4]), 4),
    'b.data_offsets: expected a start at 4, got 0, an overlap',
  ],
  ['a hole', rawFile(two([0, 4], [8, 12]), 12), 'b.data_offsets: expected a start at 4, got 8, a hole'],
  [
    'a hole at the front',
    rawFile(one([1], [4, 8]), 8),
    'a.data_offsets: expected a start at 0, got 4, a hole',
  ],
  ['truncated data', rawFile(one([1], [0, 4]), 3), 'data: expected 4 bytes after the header, got 3'],
  [
    'data that belongs to none',
    rawFile(one([1], [0, 4]), 5),
    'data: expected 4 bytes after the header, got 5',
  ],
  [
    'metadata that is not text',
    rawFile('{"__metadata__":{"case":{}}}'),
    '__metadata__.case: expected a string, got an object (Object)',
  ],
  ['metadata that is an array', rawFile('{"__metadata__":[]}'), '__metadata__: expected an object, got []'],
];

describe('what is refused', () => {
  test.each(REFUSED)('%s', async (title, content, sentence) => {
    const path = write(`${title.replaceAll(/\W/g, '_')}.safetensors`, content);
    const error = await SafetensorsFile.open(path).then(
      () => expect.fail('the file was accepted'),
      (error: unknown) => error,
    );
    expect(error).toMatchObject({ name: 'MoeError', code: 'ERR_FILE' });
    expect((error as Error).message.slice(0, path.length + 2)).toBe(`${path}: `);
    expect((error as Error).message.slice(path.length + 2)).toMatch(startingWith(sentence));
  });

  test('a file that is not there', async () => {
    const path = join(folder, 'none.safetensors');
    await expect(SafetensorsFile.open(path)).rejects.toThrow(`${path}: expected a readable file, got ENOENT`);
  });

  test('a folder', async () => {
    const path = join(folder, 'folder.safetensors');
    mkdirSync(path);
    await expect(SafetensorsFile.open(path)).rejects.toThrow(
      `${path}: expected a regular file, got another kind`,
    );
  });

  test('a tensor that is not there', async () => {
    await using file = await SafetensorsFile.open(write('one.safetensors', safetensors({})));
    await expect(file.read('toString')).rejects.toThrow('toString: expected a tensor of this name, got none');
  });
});

describe('what is read', () => {
  test('every kind of element', async () => {
    const tensors = {
      doubles: { dtype: 'F64', shape: [2], data: Float64Array.of(Math.PI, -1) },
      singles: { dtype: 'F32', shape: [1, 3], data: Float32Array.of(1.5, Number.NaN, -0) },
      halves: { dtype: 'F16', shape: [1], data: Uint16Array.of(0x3c00) },
      brain: { dtype: 'BF16', shape: [3], data: Uint16Array.of(0x3f80, 0, 1) },
      longs: { dtype: 'I64', shape: [1], data: BigInt64Array.of(-(2n ** 60n)) },
      ints: { dtype: 'I32', shape: [], data: Int32Array.of(-7) },
      bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
      nothing: { dtype: 'F32', shape: [2 ** 40, 0, 2 ** 40], data: new Float32Array() },
    };
    await using file = await SafetensorsFile.open(
      write('kinds.safetensors', safetensors(tensors, { note: 'ü' })),
    );
    expect(file.metadata.get('note')).toBe('ü');
    expect([...file.tensors.keys()]).toEqual(Object.keys(tensors));
    for (const [name, { shape, dtype, data }] of Object.entries(tensors)) {
      expect(file.tensors.get(name)).toMatchObject({ shape, dtype });
      expect(await file.read(name), name).toEqual(data);
    }
  });

  test('tensors whose header order is not their order in the file, and padding', async () => {
    const header = `{"b":${entry([1], [4, 8])},"a":${entry([1], [0, 4])}}   `;
    const path = write('order.safetensors', rawFile(header, new Uint8Array(Float32Array.of(1, 2).buffer)));
    await using file = await SafetensorsFile.open(path);
    expect([await file.read('a'), await file.read('b')]).toEqual([Float32Array.of(1), Float32Array.of(2)]);
  });

  test('a tensor called __proto__ is a tensor', async () => {
    const path = write('proto.safetensors', rawFile(`{"__proto__":${entry([1], [0, 4])}}`, 4));
    await using file = await SafetensorsFile.open(path);
    expect(await file.read('__proto__')).toEqual(Float32Array.of(0));
  });

  test('a part of a tensor, and no further', async () => {
    const values = Float32Array.of(1, 2, 3, 4, 5);
    const header = `{"a":${entry([4], [0, 16])},"b":${entry([1], [16, 20])}}`;
    await using file = await SafetensorsFile.open(
      write('part.safetensors', rawFile(header, new Uint8Array(values.buffer))),
    );
    const into = new Float32Array(5);
    await file.readInto('a', into.subarray(1, 3), 2);
    expect(into).toEqual(Float32Array.of(0, 3, 4, 0, 0));
    await expect(file.readInto('a', into.subarray(0, 2), 3)).rejects.toThrow(
      /part.safetensors: a: expected a range within 16 bytes, got 8 bytes at 12$/,
    );
    await expect(file.readInto('c', into)).rejects.toThrow(
      /part.safetensors: c: expected a tensor of this name, got none$/,
    );
  });

  test('the end of a file of 6 GiB without reading the rest', async () => {
    const big = 6 * 2 ** 30;
    const header = `{"big":${entry([big / 4], [0, big])},"end":${entry([1], [big, big + 4])}}`;
    const path = write('big.safetensors', rawFile(header));
    const dataStart = 8 + header.length;
    const descriptor = openSync(path, 'r+');
    ftruncateSync(descriptor, dataStart + big + 4);
    writeSync(descriptor, new Uint8Array(Float32Array.of(3.5).buffer), 0, 4, dataStart + big);
    closeSync(descriptor);
    const before = process.memoryUsage().rss;
    await using file = await SafetensorsFile.open(path);
    expect(await file.read('end')).toEqual(Float32Array.of(3.5));
    expect(process.memoryUsage().rss - before).toBeLessThan(100e6);
  });

  test('a file that shrinks while it is read is an error', async () => {
    const path = write('shrinks.safetensors', rawFile(one([2], [0, 8]), 8));
    await using file = await SafetensorsFile.open(path);
    write('shrinks.safetensors', rawFile(one([2], [0, 8]), 4));
    await expect(file.read('a')).rejects.toThrow(
      /shrinks.safetensors: file: expected 8 bytes at \d+, got 4$/,
    );
  });
});

function startingWith(text: string): RegExp {
  return new RegExp(`^${text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')}`);
}
