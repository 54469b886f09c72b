"""The report of a run: one self-contained HTML file with curves, probe, spectrograms, map, neighbours and data.

`gather.gather` reads a run folder into `contents.ReportContents`, plain data; `build.build_report` turns that into a
page and touches nothing else. Below them:

    gather_run, gather_data, gather_clips, gather_neighbourhood   files, tables, sound and embeddings into contents
    gather_seen, drawing                                          what the objective showed; predictions as spectrograms
    curves, probes, seen, neighbourhood, data, header             a section of the page each
    charts, picture, sound, png                                   SVG charts; spectrograms; playable sound; PNG bytes
    html                                                          markup in which every text is escaped
    points, confusions                                            lines through scores; classes taken for others
    page.css, page.js                                             looks, tooltips and play buttons

Results of benchmarks are another page: `benchmark_contents.gather_benchmark` sorts them into leaderboards
(`leaderboard`), marks ties (`ties`) and looks at classes (`examined`); `benchmark_page` lays them out with
`leaderboard_tables` and `leaderboard_plots`, and `benchmark_csv` writes them as tables. `comparison`, `sweep` and
`dataset` are pages of their own, too.
"""
