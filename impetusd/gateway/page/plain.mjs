// Lines that programs write, without anything that a terminal would act on.

// OSC, DCS, SOS, PM and APC with what they carry; CSI; other escapes; C0 but the tab, DEL and C1.
export const INERT = /\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)|[\x90\x98\x9d-\x9f][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;
// Overrides of the direction of writing: what is shown would be other than what is there.
export const BIDI = /[\u202a-\u202e\u2066-\u2069]/g;

export const plain = (line) => line.replace(INERT, "").replace(BIDI, "�");

