"""Layer 3: what uses a trained learner: predict, enrol, export."""
