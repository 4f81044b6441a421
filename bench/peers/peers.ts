// All the peers, and which of them serve a campaign.

import { badArgument } from '../../src/errors.ts';
import { type BenchCase, caseKey } from '../campaign.ts';
import type { BenchResult } from '../result.ts';
import { ggml } from './ggml.ts';
import { jaxJs } from './jax-js.ts';
import { loop } from './loop.ts';
import type { PeerName } from './names.ts';
import { onnxruntime } from './onnxruntime.ts';
import { type Peer, type ProgramOptions, type Say, taskFor } from './peer.ts';
import type { PeerFailure } from './race.ts';
import { tfjsWasm } from './tfjs-wasm.ts';
import { torch } from './torch.ts';

const PEERS: readonly Peer[] = [onnxruntime, loop, torch, tfjsWasm, jaxJs, ggml];

export function peersNamed(names: readonly PeerName[]): Peer[] {
  return [...new Set(names)].map(name => PEERS.find(peer => peer.name === name)!);
}

/**
 * Makes the peers ready that can do any of the cases; says, once each, what they lack.
 * @param argument what the sentence of an error begins with
 * @throws MoeError ERR_UNSUPPORTED if one is not here and cannot be fetched
 */
export async function preparePeers(
  argument: string,
  peers: readonly Peer[],
  cases: readonly BenchCase[],
  { say, ...options }: ProgramOptions & { readonly say: Say },
): Promise<void> {
  for (const peer of peers) {
    for (const line of new Set(cases.flatMap(one => limits(peer, one)))) say(line);
    if (cases.every(one => typeof taskFor(peer, one) === 'string')) continue;
    const reason = await peer.absent?.(options, say);
    if (reason !== undefined)
      throw badArgument('ERR_UNSUPPORTED', argument, `${peer.name} to be here`, reason);
  }
}

function limits(peer: Peer, one: BenchCase): string[] {
  const task = taskFor(peer, one);
  if (typeof task === 'string') return [`${peer.name} has ${task}: it is left out there`];
  return task.dtype === one.dtype ? [] : [`${peer.name} has no ${one.dtype}: it runs in ${task.dtype}`];
}

/** Whether the result has every peer beside it that can do its case. */
export function isBeside(peers: readonly Peer[], result: BenchResult): boolean {
  return peers.every(
    peer =>
      typeof taskFor(peer, result) === 'string' || result.vs?.some(({ peer: name }) => name === peer.name),
  );
}

/** What went wrong with a peer, in words. */
export function describeFailure({ peer, one, reason }: PeerFailure): string {
  return `${peer} is not timed beside ${caseKey(one)}: ${reason}`;
}
