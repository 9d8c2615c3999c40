"""Makes tables, figures and reports from result files; never trains.

    page.draw(workdir)                                  writes sweep.png, sweep.svg, report.html
    tables.markdown(tables.point_table(...))            tabulates the design points
    layer_table.summary_text(layer_table.summary(...))  tabulates the layers of a traced network

This module imports nothing, so that tables of layers do not wait for the drawing libraries.
"""
