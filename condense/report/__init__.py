"""Reports: pictures of condensed sets, figures, TensorBoard curves and HTML pages."""
