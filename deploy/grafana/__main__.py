"""Write the JSON of all dashboards; delete JSON files that belong to no dashboard."""

from deploy.grafana import DASHBOARDS, FOLDER, render

for name, build in DASHBOARDS.items():
    (FOLDER / name).write_text(render(build()))
for path in FOLDER.glob("*.json"):
    if path.name not in DASHBOARDS:
        path.unlink()
