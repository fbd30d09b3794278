"""The proof kernel: claims, the checks that carry them, the oracle that judges both, and the page that they make up."""
