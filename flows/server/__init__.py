"""The Prefect server and what runs beside it: deployments, workers, report pages."""
