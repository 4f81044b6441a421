// The package as a user gets it: packed with the built addon as its prebuild, and unpacked beside an application.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rename, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { REPOSITORY } from '../../support/child.ts';

const run = promisify(execFile);

export interface Manifest {
  readonly files: readonly string[];
  readonly dependencies: Readonly<Record<string, string>>;
}

export async function readManifest(): Promise<Manifest> {
  return JSON.parse(await readFile(join(REPOSITORY, 'package.json'), 'utf8'));
}

/** Packs the package with `addon` as the prebuild for this platform; returns the tarball's path and the files in it. */
export async function pack(folder: string, addon: string): Promise<{ tarball: string; files: string[] }> {
  const staged = join(folder, 'staged');
  const { files } = await readManifest();
  for (const name of ['package.json', 'README.md', 'LICENSE', ...files]) {
    const source = join(REPOSITORY, name);
    if (existsSync(source)) await cp(source, join(staged, name), { recursive: true });
  }
  const prebuild = join(staged, 'prebuilds', `${process.platform}-${process.arch}`, 'moe-kernels.node');
  await mkdir(dirname(prebuild), { recursive: true });
  await cp(addon, prebuild);
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
    cwd: staged,
  });
  const [packed] = JSON.parse(stdout) as { filename: string; files: { path: string }[] }[];
  return { tarball: join(folder, packed!.filename), files: packed!.files.map(file => file.path) };
}

/** An application folder with the tarball in its node_modules, and the package's dependencies linked from this repository. */
export async function install(folder: string, tarball: string): Promise<string> {
  const application = join(folder, 'application');
  const modules = join(application, 'node_modules');
  await mkdir(join(modules, '@types'), { recursive: true });
  await run('tar', ['-xzf', tarball, '-C', modules]);
  await rename(join(modules, 'package'), join(modules, 'moe-kernels'));
  const { dependencies } = await readManifest();
  for (const name of [...Object.keys(dependencies), '@types/node', 'undici-types']) {
    await symlink(join(REPOSITORY, 'node_modules', name), join(modules, name));
  }
  return application;
}
