// Presets at sizes that a test runs in no time: every dimension another, so that no two can be mistaken for each other.

import { type MoELayerConfig, type Preset, presets, withOverrides } from '../../src/index.ts';

export type PresetName = keyof typeof presets;
export const PRESET_NAMES = Object.keys(presets) as PresetName[];

export function shrunk(name: PresetName, overrides: Partial<MoELayerConfig> = {}): Preset {
  const preset: Preset = presets[name];
  const { groups, capacity } = preset.router ?? {};
  return withOverrides(preset, {
    ...{ hidden: 24, intermediate: 10, experts: Math.min(preset.experts, 8) },
    ...(preset.topK === undefined ? {} : { topK: Math.min(preset.topK, 3) }),
    ...(preset.identityExperts ? { identityExperts: 3 } : {}),
    router: {
      ...(groups ? { groups: { count: 4, top: 2 } } : {}),
      ...(capacity ? { capacity: { tokensPerExpert: 3 } } : {}),
    },
    ...(preset.shared ? { shared: { intermediate: 14 } } : {}),
    ...overrides,
  });
}
