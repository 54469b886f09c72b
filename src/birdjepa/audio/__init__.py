"""Sound in: decoding recordings, isolating decoders, log-mel front ends, and a synthesiser of bird song."""
