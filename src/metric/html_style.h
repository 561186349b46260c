/* The style sheet of every page. test_html computes the contrast of these colours; the series
 * s0..s7 are told apart by dashes too once they repeat. */
#ifndef LK_METRIC_HTML_STYLE_H
#define LK_METRIC_HTML_STYLE_H

#define LK_HTML_STYLE                                                                              \
    ":root{color-scheme:light dark;--page:#f6f8fa;--card:#ffffff;--text:#1b1f24;--soft:#57606a;"   \
    "--line:#d8dee4;--axis:#6e7781;--ok:#116329;--warning:#7d4e00;--error:#a40e26;--s0:#0969da;"   \
    "--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df;--s4:#cf222e;--s5:#0e7c86;--s6:#7d4e00;--s7:#bf3989}"  \
    "@media(prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--text:#e6edf3;"        \
    "--soft:#9da7b3;--line:#30363d;--axis:#8b949e;--ok:#56d364;--warning:#e3b341;--error:#ff938a;" \
    "--s0:#58a6ff;--s1:#ffa657;--s2:#3fb950;--s3:#bc8cff;--s4:#ff7b72;--s5:#39c5cf;--s6:#d2a679;"  \
    "--s7:#f778ba}}"                                                                               \
    "*{box-sizing:border-box}"                                                                     \
    "body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"\
    "'Segoe UI',Roboto,'DejaVu Sans',sans-serif;-webkit-text-size-adjust:100%}"                    \
    "main,header{max-width:72rem;margin:0 auto;padding:0 1rem}"                                    \
    "header{padding-top:1.5rem}main{padding-bottom:3rem}"                                          \
    "h1{font-size:1.7rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}"                \
    "h2{font-size:1.2rem;margin:0 0 .8rem}"                                                        \
    "section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;"             \
    "padding:1rem;margin:1rem 0}"                                                                  \
    "p{margin:0 0 .8rem;color:var(--soft);max-width:60rem;overflow-wrap:anywhere}"                 \
    ".note{border:1px solid;border-left-width:.35rem;border-radius:.3rem;padding:.4rem .7rem;"     \
    "margin:0 0 .6rem;max-width:none}.note b{text-transform:uppercase;font-size:.8em;"             \
    "letter-spacing:.04em;margin-right:.4em}"                                                      \
    ".ok{color:var(--ok)}.warning{color:var(--warning)}.error{color:var(--error)}"                 \
    ".tiles{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));"     \
    "margin:0 0 1rem}.tiles div{border:1px solid var(--line);border-radius:.5rem;"                 \
    "padding:.5rem .75rem}.tiles dt{font-size:.8rem;color:var(--soft)}"                            \
    ".tiles dd{margin:0;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums;"       \
    "overflow-wrap:anywhere}"                                                                      \
    ".wide{overflow-x:auto;margin:0 0 1rem}"                                                       \
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;"            \
    "min-width:min(100%,28rem)}"                                                                   \
    "caption{text-align:left;font-weight:600;padding-bottom:.3rem}"                                \
    "th,td{padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);text-align:left;"    \
    "vertical-align:top}th{font-weight:500}thead th{color:var(--soft)}"                            \
    "th.r,td.r{text-align:right}td.r{white-space:nowrap}tr>:last-child{padding-right:0}"           \
    ".pairs{font-size:.9rem;margin:0 0 1rem}.pairs div{display:grid;gap:0 1rem;"                   \
    "grid-template-columns:minmax(6rem,13rem) 1fr;padding:.25rem 0;"                               \
    "border-bottom:1px solid var(--line)}.pairs dt{color:var(--soft)}"                             \
    ".pairs dd{margin:0;overflow-wrap:anywhere}h3{font-size:1rem;margin:0 0 .3rem}"                \
    "details{margin:0 0 .8rem;font-size:.9rem}summary{cursor:pointer;color:var(--soft)}"           \
    "pre{overflow-x:auto;font-size:.85rem;border:1px solid var(--line);border-radius:.4rem;"       \
    "padding:.6rem}"                                                                               \
    ".grid{display:grid;gap:1.25rem;grid-template-columns:repeat(auto-fit,"                        \
    "minmax(min(100%,24rem),1fr))}"                                                                \
    "figure{margin:0 0 1rem;min-width:0}figcaption{font-weight:600}"                               \
    ".unit{font-size:.8rem;color:var(--soft);margin:.1rem 0 .5rem}"                                \
    ".x{text-align:center;margin:.3rem 0 0}"                                                       \
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:0;padding:0;"       \
    "font-size:.85rem}.legend li{overflow-wrap:anywhere}.legend svg{width:1.6rem;height:.6rem;"    \
    "margin-right:.35rem;overflow:visible}"                                                        \
    ".plot{position:relative;height:15rem;margin:.5rem .8rem 1.5rem 3.6rem}"                       \
    ".plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}"                 \
    ".plot span{position:absolute;font-size:.75rem;line-height:1;color:var(--soft);"               \
    "white-space:nowrap}.ty{right:100%;transform:translateY(-50%);padding-right:.4rem}"            \
    ".tx{top:100%;transform:translateX(-50%);padding-top:.4rem}"                                   \
    ".g{stroke:var(--line)}.a{stroke:var(--axis)}"                                                 \
    "path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round}"                       \
    ".l{stroke-width:1.75;stroke-linecap:round}.d{stroke-width:6;stroke-linecap:round}"            \
    ".f{stroke-opacity:.45}"                                                                       \
    ".h{fill:var(--s0);stroke:var(--card);stroke-width:.5}"                                        \
    ".s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}"         \
    ".s4{stroke:var(--s4)}.s5{stroke:var(--s5)}.s6{stroke:var(--s6)}.s7{stroke:var(--s7)}"         \
    ".k1{stroke-dasharray:6 3}.k2{stroke-dasharray:2 3}.k3{stroke-dasharray:8 3 2 3}"              \
    ".bars{width:100%;table-layout:fixed}.bars th{width:30%;overflow-wrap:anywhere}"               \
    ".bars td{border-bottom:0}.bars th{border-bottom:0}.bars td.v{width:32%;text-align:right;"     \
    "overflow-wrap:anywhere}"                                                                      \
    ".bars i{display:block;height:.9em;margin-top:.25em;min-width:1px;background:var(--s0);"       \
    "border-radius:.15em}.bars i.m{background:var(--warning)}"                                     \
    "@media(max-width:32rem){.bars{font-size:.8rem}.bars th{width:33%}.bars td.v{width:41%}}"     \
    "@media print{section{break-inside:avoid}}"

#endif
