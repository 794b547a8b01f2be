"""Files: configurations, weights, pictures, videos."""
