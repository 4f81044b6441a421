// The packed tarball, installed in a folder that knows nothing of this repository: what is in it, and that it works.

import { existsSync } from 'node:fs';
import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backendInfo } from '../../src/index.ts';
import { RESULT } from '../support/bench-result.ts';
import { REPOSITORY, runNode } from '../support/child.ts';
import { install, pack, readManifest } from './support/package.ts';

/** Uses the package once `tensor` and `backendInfo` are in scope. */
const PROGRAM = `
  const numbers = tensor([1, 2, 3, 4], [2, 2]).cast('bfloat16');
  numbers.float32().then(values => {
    console.log(JSON.stringify({ values: [...values], binary: backendInfo().binary }));
  });
`;

let folder: string;
let application: string;
let files: string[];

beforeAll(async () => {
  if (!existsSync(join(REPOSITORY, 'dist/src/index.js')))
    throw new Error('dist/ is missing: npm run build:ts makes it');
  folder = await realpath(await mkdtemp(join(tmpdir(), 'moe-kernels-')));
  const packed = await pack(folder, backendInfo().binary);
  files = packed.files;
  application = await install(folder, packed.tarball);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs Node in the application, with no word of the repository's own binary. */
function runThere(args: readonly string[]) {
  return runNode(args, { cwd: application, env: { MOE_KERNELS_BINARY: undefined, NODE_OPTIONS: undefined } });
}

async function runProgram(name: string, source: string): Promise<{ values: number[]; binary: string }> {
  await writeFile(join(application, name), source);
  const { code, stdout, stderr } = await runThere([name]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
}

describe('the tarball', () => {
  it('holds the library, its types, the command line, the prebuild and the sources to build from', () => {
    const platform = `prebuilds/${process.platform}-${process.arch}/moe-kernels.node`;
    const library = ['dist/src/index.js', 'dist/src/index.d.ts', 'dist/src/cli/main.js', platform];
    const texts = ['README.md', 'LICENSE', 'CHANGELOG.md', 'CMakeLists.txt', 'package.json'];
    expect(
      [...library, ...texts].filter(file => !files.includes(file)),
      'missing',
    ).toEqual([]);
    for (const sources of ['binding', 'ops', 'cpu', 'cuda']) {
      expect(
        files.some(file => file.startsWith(`${sources}/`) && file.endsWith('.cpp')),
        sources,
      ).toBe(true);
    }
  });

  it('holds no test equipment', () => {
    // The reference is there for the command line, which checks the kernels against it before it times them.
    const equipment =
      /(^|\/)(test|tests|simt|golden|examples)\/|\.test\.|\.safetensors$|\.tsbuildinfo$|vitest/;
    const found = files.filter(file => equipment.test(file) && !file.startsWith('dist/test/reference/'));
    expect(found).toEqual([]);
  });

  it('holds what package.json lists, all of it', async () => {
    const { files: listed } = await readManifest();
    const packs = (name: string) => files.some(file => file === name || file.startsWith(`${name}/`));
    expect(
      listed.filter(name => !name.startsWith('!') && !packs(name)),
      'missing',
    ).toEqual([]);
  });

  it('holds how peers are fetched and run, and depends on none of them', async () => {
    const manifests = ['onnxruntime-node', 'tfjs-wasm', 'jax-js'].flatMap(peer =>
      ['package.json', 'package-lock.json'].map(name => `${peer}/${name}`),
    );
    const needed = [...manifests, 'torch_layer.py'];
    expect(files).toEqual(expect.arrayContaining(needed.map(name => `bench/peers/${name}`)));
    const { dependencies } = await readManifest();
    expect(Object.keys(dependencies).filter(name => /onnx|tensorflow|jax/.test(name))).toEqual([]);
  });
});

describe('the installed package', () => {
  const installed = () => join(application, 'node_modules/moe-kernels');

  it('can be imported', async () => {
    const result = await runProgram('a.mjs', `import { tensor, backendInfo } from 'moe-kernels'; ${PROGRAM}`);
    expect(result.values).toEqual([1, 2, 3, 4]);
    expect(result.binary.startsWith(join(installed(), 'prebuilds'))).toBe(true);
  });

  it('measures from a program', async () => {
    const source = `import { bench } from 'moe-kernels/bench';
      import { backendInfo } from 'moe-kernels';
      const values = [];
      for await (const { tokens } of bench({ shapes: ['4,16,20,6,2'], tokens: [1, 2], minTimeMs: 1 })) values.push(tokens);
      console.log(JSON.stringify({ values, binary: backendInfo().binary }));`;
    expect((await runProgram('bench.mjs', source)).values).toEqual([1, 2]);
  });

  it('measures peers beside it', async () => {
    const source = `import { bench } from 'moe-kernels/bench';
      import { backendInfo } from 'moe-kernels';
      const values = [];
      const request = { shapes: ['4,16,20,6,2'], vs: ['loop'], rounds: 6, minTimeMs: 1 };
      for await (const { vs } of bench(request)) values.push(...vs.map(({ peer }) => peer));
      console.log(JSON.stringify({ values, binary: backendInfo().binary }));`;
    expect((await runProgram('versus.mjs', source)).values).toEqual(['loop']);
  });

  it('can be required where Node can require an ES module', async () => {
    const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
    const source = `const { tensor, backendInfo } = require('moe-kernels'); ${PROGRAM}`;
    if (major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19)) {
      expect((await runProgram('a.cjs', source)).values).toEqual([1, 2, 3, 4]);
    } else {
      await writeFile(join(application, 'a.cjs'), source);
      expect((await runThere(['a.cjs'])).stderr).toContain('ERR_REQUIRE_ESM');
    }
  });

  it.each(['mts', 'cts'])('has types that a strict .%s program compiles against', async extension => {
    const name = `types.${extension}`;
    await writeFile(
      join(application, name),
      `import { MoELayer, type Tensor, tensor, MoeError, type ErrorCode } from 'moe-kernels';
       import { type BenchResult, bench } from 'moe-kernels/bench';
       export const results: AsyncIterable<BenchResult> = bench({ dtypes: ['bfloat16'] });
       const layer: MoELayer = new MoELayer({ hidden: 8, intermediate: 8, experts: 2, topK: 1 });
       const y: Tensor = layer.forward(tensor(new Float32Array(8), [1, 8]));
       const shape: readonly number[] = y.shape;
       export const code: ErrorCode = new MoeError('ERR_SHAPE', String(shape)).code;
       // @ts-expect-error: a dtype that does not exist
       tensor([1], [1], { dtype: 'float8' });
      `,
    );
    const compiler = join(REPOSITORY, 'node_modules/typescript/bin/tsc');
    const options = [
      '--noEmit',
      '--strict',
      '--target',
      'es2022',
      '--lib',
      'es2023,esnext.disposable',
      '--types',
      'node',
    ];
    const { code, stdout } = await runThere([compiler, ...options, '--module', 'nodenext', name]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
  });

  it('brings the command line', async () => {
    const { code, stdout, stderr } = await runThere([
      join(installed(), 'dist/src/cli/main.js'),
      'info',
      '--json',
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(join(installed(), 'prebuilds'));
  });

  it('brings what a page about results is made of', async () => {
    await writeFile(join(application, 'run.jsonl'), JSON.stringify(RESULT));
    const command = [join(installed(), 'dist/src/cli/main.js'), 'report', 'run.jsonl', '--out', '-'];
    const { code, stdout, stderr } = await runThere(command);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const part of ['prefers-color-scheme', 'uPlot', 'Roofline']) expect(stdout).toContain(part);
  });

  it('without its addon says how to build one', async () => {
    await rm(join(installed(), 'prebuilds'), { recursive: true });
    const { stdout } = await runThere([
      '--input-type=module',
      '--eval',
      `import('moe-kernels').catch(error => console.log(JSON.stringify({ code: error.code, message: error.message })))`,
    ]);
    const { code, message } = JSON.parse(stdout);
    expect(code).toBe('ERR_BINARY');
    expect(message).toContain(`no native addon for ${process.platform}-${process.arch}`);
    expect(message).toContain(`npx cmake-js@8 build --directory ${installed()}`);
  });
});
