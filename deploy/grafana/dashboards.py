#!/usr/bin/env python3
"""Writes the dashboards beside it: dashboards/*.json, which Grafana is provisioned with.

    deploy/grafana/dashboards.py            writes them
    deploy/grafana/dashboards.py --check    says whether they are what this writes

A panel is a title, its queries with legends, a unit and a sentence on how to read it. CI runs every query
against a real Prometheus under load.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24


def rate(metric, selector="", by=""):
    """Per second, summed; nothing counted yet is zero."""
    where = f"{{{selector}}}" if selector else ""
    total = f"sum by ({by}) " if by else "sum"
    inner = f"{total}(rate({metric}{where}[$__rate_interval]))"
    return f"{inner} or on() vector(0)"


def quantiles(metric, selector="", by=""):
    """Median, 95 and 99 percent of a histogram."""
    where = f"{{{selector}}}" if selector else ""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        (f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))", f"{legend}p{name}")
        for q, name in ((0.5, "50"), (0.95, "95"), (0.99, "99"))
    ]


def panel(title, queries, unit="short", about="", kind="timeseries", width=8, height=7, stack=False, steps=None):
    if isinstance(queries, str):
        queries = [(queries, "")]
    made = {
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend or "__auto", "datasource": SOURCE}
            for place, (expression, legend) in enumerate(queries)
        ],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
    }
    defaults = made["fieldConfig"]["defaults"]
    if about:
        made["description"] = about
    if kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 20 if stack else 0, "stacking": {"mode": "normal" if stack else "none"},
                              "showPoints": "never"}
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    else:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area"}
        for target in made["targets"]:
            target["instant"] = kind == "table"
    if steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}
    return made


def stat(title, expression, unit="short", about="", steps=None, legend="", width=4):
    steps = steps or [(None, "blue")]
    return panel(title, [(expression, legend)], unit, about, kind="stat", width=width, height=4, steps=steps)


GOOD_AT_ZERO = [(None, "green"), (1, "red")]


def board(uid, title, rows):
    """Rows of (heading, panels), laid out from left to right."""
    panels, top, number = [], 0, 0
    for heading, members in rows:
        number += 1
        panels.append({"id": number, "type": "row", "title": heading, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        top += 1
        left, tallest = 0, 0
        for member in members:
            place = member["gridPos"]
            if left + place["w"] > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            place.update(x=left, y=top)
            left, tallest = left + place["w"], max(tallest, place["h"])
            number += 1
            panels.append({"id": number, **member})
        top += tallest
    return {
        "uid": uid,
        "title": title,
        "tags": ["tessera"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["tessera"], "title": "Tessera", "asDropdown": True}],
        "panels": panels,
    }


def process(job):
    """CPU, memory, files, and the shell that every daemon has."""
    selector = f'job="{job}"'
    return [
        panel("CPU", [(f"rate(process_cpu_seconds_total{{{selector}}}[$__rate_interval])", "{{instance}}")], "percentunit",
              "One core is 100 %. A daemon has one thread for its work: near 100 % it is full.", width=6),
        panel("Memory", [(f"process_resident_memory_bytes{{{selector}}}", "{{instance}}")], "bytes", width=6),
        panel("Open files", [(f"process_open_fds{{{selector}}}", "{{instance}}")], width=6),
        panel("Uptime", [(f"tessera_uptime_seconds{{{selector}}}", "{{instance}}")], "s", "A fall to zero is a restart.", width=6),
    ]


def shell(job):
    selector = f'job="{job}"'
    return [
        panel("Queue", [(f"tessera_shell_queue_length{{{selector}}}", "{{instance}} waiting"),
                        (f'tessera_limit{{{selector},what="queue"}}', "{{instance}} limit")], "short",
              "Inputs that wait for a turn of the loop. At the limit the daemon stops to read its sockets."),
        panel("Commit", quantiles("tessera_shell_commit_seconds", selector), "s",
              "How long a turn waits until its changes are on disk, before anything leaves."),
        panel("Inputs", [(rate("tessera_shell_inputs_total", selector, "kind"), "{{kind}}"),
                         (rate("tessera_shell_turns_total", selector), "turns")], "ops",
              "What the loop took, and how many turns it needed for it."),
        panel("Not delivered", [(rate("tessera_shell_send_errors_total", selector, "transport"), "{{transport}}"),
                                (rate("tessera_shell_broken_streams_total", selector), "broken streams"),
                                (rate("tessera_shell_refused_connections_total", selector), "connections refused by limit"),
                                (rate("tessera_shell_lost_log_lines_total", selector), "log lines lost")], "ops"),
        panel("Work open", [(f"tessera_core_owed{{{selector}}}", "{{instance}}")], "short",
              "Waits, turns and questions that are not ended. Draining waits for zero."),
    ]


def sip(job):
    selector = f'job="{job}"'
    return [
        panel("SIP requests", [(rate("tessera_sip_requests_received_total", selector, "method"), "{{method}} in"),
                               (rate("tessera_sip_requests_sent_total", selector, "method"), "{{method}} out")], "ops"),
        panel("SIP responses", [(rate("tessera_sip_responses_received_total", selector, "method, class"), "{{method}} {{class}} in"),
                                (rate("tessera_sip_responses_sent_total", selector, "method, class"), "{{method}} {{class}} out")],
              "ops"),
        panel("SIP transactions", [(f"sum by (kind) (tessera_sip_transactions_open{{{selector}}})", "{{kind}}"),
                                   (f'sum(tessera_limit{{{selector},what="sip_transactions"}})', "limit")], "short",
              "In flight, and ended ones that linger to absorb repetitions. Server and client each stay below the limit."),
        panel("SIP repetitions", [(rate("tessera_sip_retransmissions_total", selector, "message, direction"),
                                   "{{message}} {{direction}}")], "ops",
              "Repetitions are loss or slowness somewhere: sent ones towards the next hop, received ones towards the last."),
        panel("SIP troubles", [(rate("tessera_sip_timeouts_total", selector), "timeouts"),
                               (rate("tessera_sip_unreachable_total", selector), "unreachable"),
                               (rate("tessera_sip_missing_acks_total", selector), "no ACK"),
                               (rate("tessera_sip_malformed_total", selector, "expected"), "malformed: {{expected}}"),
                               (rate("tessera_sip_dropped_total", selector, "reason"), "dropped: {{reason}}"),
                               (rate("tessera_sip_refused_total", selector, "reason"), "refused: {{reason}}"),
                               (rate("tessera_sip_unanswered_total", selector), "unanswered (a bug)")], "ops"),
        panel("SIP transports", [(rate("tessera_sip_tcp_for_length_total", selector), "TCP, too long for UDP"),
                                 (rate("tessera_sip_back_to_udp_total", selector), "back to UDP"),
                                 (rate("tessera_sip_second_connections_total", selector), "response over a second connection"),
                                 (rate("tessera_sip_evicted_total", selector), "lingering ones forgotten early")], "ops"),
        panel("SIP connections", [(f"tessera_shell_sip_connections{{{selector}}}", "{{instance}}"),
                                  (f'tessera_limit{{{selector},what="sip_connections"}}', "limit")]),
    ]


def dns(job):
    selector = f'job="{job}"'
    return [
        panel("DNS questions", [(rate("tessera_dns_queries_total", selector, "outcome"), "{{outcome}}")], "ops",
              "`nothing` is an answer: a name without that record. `failed` is none."),
        panel("DNS latency", quantiles("tessera_dns_query_seconds", selector), "s",
              "Cached answers are counted, too: the median is the cache, the rest is the server."),
    ]


def diameter(job, is_server=False):
    selector = f'job="{job}"'
    direction = "sent" if is_server else "received"
    return [
        panel("Cx by command and result",
              [(rate("tessera_cx_answers_total", f'{selector},direction="{direction}"', "command, result"), "{{command}} {{result}}")],
              "ops", "Answers. 2001 to 2004 are success; experimental results are TS 29.229 §6.2."),
        panel("Cx requests received", [(rate("tessera_cx_requests_received_total", selector, "command"), "{{command}}"),
                                       (rate("tessera_cx_malformed_total", selector, "kind, command"), "malformed {{kind}} {{command}}"),
                                       (rate("tessera_cx_answers_beyond_total", selector), "results not counted apart")], "ops"),
        panel("Diameter messages", [(rate("tessera_diameter_requests_total", selector, "direction, command"),
                                     "request {{direction}} {{command}}"),
                                    (rate("tessera_diameter_answers_total", selector, "direction, command"),
                                     "answer {{direction}} {{command}}")], "ops", "By command code: 300 UAR, 301 SAR, 302 LIR, 303 MAR."),
        panel("Diameter in flight", [(f"sum by (instance) (tessera_diameter_pending{{{selector}}})", "{{instance}}"),
                                     (f'sum(tessera_limit{{{selector},what="diameter_pending"}})', "limit")]),
        panel("Diameter peers", [(f"tessera_diameter_peer_up{{{selector}}}", "{{instance}} → {{peer}}"),
                                 (f"sum by (state, watchdog) (tessera_diameter_peer_state{{{selector}}})", "{{state}} {{watchdog}}"),
                                 (f"tessera_diameter_connections{{{selector}}}", "{{instance}} connections"),
                                 (f"tessera_shell_diameter_connections{{{selector}}}", "{{instance}} sockets"),
                                 (f'tessera_limit{{{selector},what="diameter_connections"}}', "limit")], "short",
              "1 is a peer that takes requests. State and watchdog are those of RFC 6733 §5.6 and RFC 3539 Appendix A."),
        panel("Diameter troubles", [(rate("tessera_diameter_no_answers_total", selector, "reason"), "no answer: {{reason}}"),
                                    (rate("tessera_diameter_timeouts_total", selector), "timeouts"),
                                    (rate("tessera_diameter_failovers_total", selector), "failovers"),
                                    (rate("tessera_diameter_redirects_total", selector), "redirects"),
                                    (rate("tessera_diameter_refusals_total", selector, "result"), "refused {{result}}"),
                                    (rate("tessera_diameter_connections_refused_total", selector, "reason"),
                                     "connection refused: {{reason}}"),
                                    (rate("tessera_diameter_late_answers_total", selector), "late answers"),
                                    (rate("tessera_diameter_duplicates_total", selector), "duplicates"),
                                    (rate("tessera_diameter_undecodable_total", selector), "undecodable"),
                                    (rate("tessera_diameter_suspects_total", selector), "peers gone silent"),
                                    (rate("tessera_diameter_connects_total", selector), "connections tried")], "ops"),
        panel("Watchdog", [(rate("tessera_diameter_watchdogs_sent_total", selector), "DWR sent"),
                           (rate("tessera_diameter_watchdogs_received_total", selector), "DWA received")], "ops",
              "RFC 3539: one every Tw while a peer is otherwise silent; under load there need be none."),
    ]


def overview():
    refused = 'sum(increase(tessera_pcscf_register_answers_total{status!~"200|401"}[$__rate_interval]))'
    ended = 'sum(increase(tessera_pcscf_register_answers_total{status!="401"}[$__rate_interval]))'
    return board("tessera-overview", "Tessera: overview", [
        ("Now", [
            stat("UEs registered", "sum(tessera_pcscf_registrations)", about="At all P-CSCFs."),
            stat("At S-CSCFs", "sum(tessera_scscf_registrations)", about="Private identities, times implicit sets."),
            stat("Sets without registration", "sum(tessera_ipsec_sets) - sum(tessera_pcscf_registrations)",
                 about="Sets of security associations less registrations. Above zero for minutes is a leak; below zero are UEs in clear.",
                 steps=[(None, "green"), (50, "orange")]),
            stat("REGISTERs refused", f"({refused} / ({ended} > 0)) or vector(0)", "percentunit",
                 "Share of final answers to REGISTERs that are neither 200 nor a challenge.",
                 [(None, "green"), (0.01, "orange"), (0.05, "red")]),
            stat("Daemons down", 'count(up{job=~"hss|scscf|icscf|pcscf"} == 0) or vector(0)', about="Of those Prometheus looks at.",
                 steps=GOOD_AT_ZERO),
            stat("Alerts firing", 'count(ALERTS{alertstate="firing"}) or vector(0)', about="docs/runbooks.md says what to do.",
                 steps=GOOD_AT_ZERO),
        ]),
        ("Registrations", [
            panel("REGISTERs at the P-CSCF, by status", [(rate("tessera_pcscf_register_answers_total", "", "status"), "{{status}}")], "ops",
                  "Final answers. A registration is a 401 and a 200.", stack=True),
            panel("Refused by the P-CSCF, by cause", [(rate("tessera_pcscf_register_refusals_total", "", "cause"), "{{cause}}")], "ops"),
            panel("S-CSCF, by outcome", [(rate("tessera_scscf_registers_total", "", "outcome"), "{{outcome}}")], "ops", stack=True),
            panel("I-CSCF, by outcome", [(rate("tessera_icscf_registrations_total", "", "outcome"), "{{outcome}}")], "ops", stack=True),
            panel("Registered", [("sum(tessera_pcscf_registrations)", "P-CSCF"), ("sum(tessera_scscf_registrations)", "S-CSCF"),
                                 ("sum(tessera_ipsec_sets)", "sets installed")], "short",
                  "The three go together. Sets run ahead for as long as a challenge is open."),
            panel("Ended otherwise than by the user", [(rate("tessera_scscf_deregistrations_total", "", "cause"), "{{cause}}")], "ops"),
        ]),
        ("Latency, each hop with all behind it", [
            panel("P-CSCF", quantiles("tessera_pcscf_register_seconds"), "s", width=6),
            panel("I-CSCF", quantiles("tessera_icscf_registration_seconds"), "s", width=6),
            panel("S-CSCF", quantiles("tessera_scscf_register_seconds"), "s", width=6),
            panel("Cx p99, by command", quantiles("tessera_cx_answer_seconds", "", "command")[2:], "s", width=6),
        ]),
        ("Cx and DNS", [
            panel("Cx by command and result", [(rate("tessera_cx_answers_total", 'direction="received"', "command, result"),
                                                "{{command}} {{result}}")], "ops"),
            panel("DNS", [(rate("tessera_dns_queries_total", "", "outcome"), "{{outcome}}")], "ops"),
            panel("DNS p99, by daemon", quantiles("tessera_dns_query_seconds", "", "job")[2:], "s"),
        ]),
        ("In flight, queues and overload", [
            panel("SIP transactions", [('sum by (instance) (tessera_sip_transactions_open{kind!="lingering"})', "{{instance}}")]),
            panel("Diameter requests", [("sum by (instance) (tessera_diameter_pending)", "{{instance}}")]),
            panel("Queues", [("tessera_shell_queue_length", "{{instance}}")], "short", "Inputs that wait for a turn."),
            panel("Refused for load", [(rate("tessera_sip_refused_total", 'reason="overload"'), "SIP overload"),
                                       (rate("tessera_hss_requests_total", 'result="3004"'), "HSS too busy"),
                                       (rate("tessera_shell_refused_connections_total"), "connections"),
                                       (rate("tessera_icscf_draining_refusals_total"), "I-CSCF draining"),
                                       (rate("tessera_scscf_draining_refusals_total"), "S-CSCF draining")], "ops"),
            panel("How full", [
                ('max by (job) (tessera_sip_transactions_open{kind!="lingering"}) / on (job) '
                 'min by (job) (tessera_limit{what="sip_transactions"})', "{{job}} SIP transactions"),
                ('max by (job) (tessera_diameter_pending) / on (job) min by (job) (tessera_limit{what="diameter_pending"})',
                 "{{job}} Diameter"),
                ('max by (job) (tessera_pcscf_registrations) / on (job) min by (job) (tessera_limit{what="registrations"})',
                 "{{job}} registrations")], "percentunit", "Of what [limits] allows."),
            panel("SIP repetitions", [(rate("tessera_sip_retransmissions_total", "", "job, direction"), "{{job}} {{direction}}")], "ops"),
        ]),
        ("Nodes", [
            panel("CPU", [("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")], "percentunit"),
            panel("Memory", [("process_resident_memory_bytes", "{{instance}}")], "bytes"),
            panel("Builds", [("count by (program, version) (tessera_build_info)", "{{program}} {{version}}")], "short",
                  "Two versions of one program are a rolling upgrade under way."),
        ]),
    ])


def pcscf():
    return board("tessera-pcscf", "Tessera: P-CSCF", [
        ("Registrations", [
            panel("Registrations", [("tessera_pcscf_registrations", "{{instance}}")]),
            panel("Answers to REGISTERs, by status", [(rate("tessera_pcscf_register_answers_total", "", "status"), "{{status}}")], "ops",
                  stack=True),
            panel("Refused, by cause", [(rate("tessera_pcscf_register_refusals_total", "", "cause"), "{{cause}}")], "ops"),
            panel("REGISTER latency", quantiles("tessera_pcscf_register_seconds"), "s"),
            panel("Other requests, by outcome", [(rate("tessera_pcscf_other_requests_total", "", "outcome"), "{{outcome}}")], "ops"),
        ]),
        ("IPsec", [
            panel("Data plane", [("tessera_ipsec_plane", "{{instance}} {{plane}}")], "short",
                  "xfrm: the kernel's ESP. userspace: this process, where the kernel has none."),
            panel("Sets, by state", [("sum by (state) (tessera_pcscf_security_association_sets)", "{{state}}")], "short",
                  "temporary: a challenge is open. old: replaced, and kept for what is under way.", stack=True),
            panel("Sets in the data plane", [("tessera_ipsec_sets", "{{instance}} sets"),
                                             ("tessera_ipsec_kernel_states / 4 or tessera_ipsec_sets * 0", "{{instance}} kernel, in fours")]),
            panel("Audit", [(rate("tessera_pcscf_audits_total", "", "result"), "audit {{result}}"),
                            (rate("tessera_pcscf_sets_lost_total", "", "cause"), "set lost: {{cause}}"),
                            (rate("tessera_pcscf_strays_removed_total", "", "object"), "stray {{object}} removed"),
                            (rate("tessera_pcscf_unreadable_records_total"), "records not read back")], "ops",
                  "The P-CSCF compares its sets with its data plane at the start and every ipsec.audit_seconds."),
            panel("Sets asked for", [(rate("tessera_pcscf_set_requests_total", "", "result"), "{{result}}")], "ops"),
            panel("ESP packets", [(rate("tessera_ipsec_packets_total", "", "direction"), "{{direction}}")], "pps"),
            panel("ESP octets", [(rate("tessera_ipsec_bytes_total", "", "direction"), "{{direction}}")], "Bps"),
            panel("ESP drops", [(rate("tessera_ipsec_drops_total", "", "reason"), "{{reason}}"),
                                (rate("tessera_ipsec_kernel_errors_total", "", "reason"), "kernel {{reason}}")], "pps",
                  "unknown_spi after a restart are phones that still use a set of before."),
        ]),
        ("SIP", sip("pcscf")),
        ("DNS", dns("pcscf")),
        ("Shell", shell("pcscf")),
        ("Process", process("pcscf")),
    ])


def icscf():
    return board("tessera-icscf", "Tessera: I-CSCF", [
        ("Registrations", [
            panel("Registrations, by outcome", [(rate("tessera_icscf_registrations_total", "", "outcome"), "{{outcome}}")], "ops", stack=True),
            panel("Registration latency", quantiles("tessera_icscf_registration_seconds"), "s"),
            panel("S-CSCFs", [(rate("tessera_icscf_silent_servers_total"), "gave no answer"),
                              (rate("tessera_icscf_reselections_total"), "another was chosen"),
                              (rate("tessera_icscf_draining_refusals_total"), "refused, draining")], "ops"),
            panel("Other initial requests, by outcome", [(rate("tessera_icscf_sessions_total", "", "outcome"), "{{outcome}}"),
                                                         (rate("tessera_icscf_session_seconds_count"), "ended")], "ops"),
        ]),
        ("Cx", diameter("icscf") + [panel("Cx latency, by command", quantiles("tessera_cx_answer_seconds", 'job="icscf"', "command"), "s")]),
        ("SIP", sip("icscf")),
        ("DNS", dns("icscf")[:1]),
        ("Shell", shell("icscf")),
        ("Process", process("icscf")),
    ])


def scscf():
    return board("tessera-scscf", "Tessera: S-CSCF", [
        ("Registrations", [
            panel("Registrations", [("tessera_scscf_registrations", "{{instance}}"),
                                    ('tessera_limit{job="scscf",what="registrations"}', "{{instance}} limit")]),
            panel("REGISTERs, by outcome", [(rate("tessera_scscf_registers_total", "", "outcome"), "{{outcome}}")], "ops", stack=True),
            panel("REGISTER latency", quantiles("tessera_scscf_register_seconds"), "s"),
            panel("Challenges open", [("tessera_scscf_challenges", "{{instance}}")]),
            panel("Ended otherwise than by the user", [(rate("tessera_scscf_deregistrations_total", "", "cause"), "{{cause}}")], "ops"),
            panel("Watchers and application servers", [
                ("sum(tessera_scscf_subscriptions)", "subscriptions"),
                (rate("tessera_scscf_subscription_events_total", "", "outcome"), "SUBSCRIBE {{outcome}}"),
                (rate("tessera_scscf_notifications_total", "", "outcome"), "NOTIFY {{outcome}}"),
                (rate("tessera_scscf_third_party_registers_total", "", "outcome"), "third party {{outcome}}")], "ops"),
            panel("Taken over from other S-CSCFs", [(rate("tessera_scscf_restorations_total", "", "outcome"), "{{outcome}}")], "ops",
                  "TS 23.380: users whose S-CSCF is away."),
            panel("Authentication", [(rate("tessera_scscf_resynchronisations_total"), "resynchronisations (AUTS)"),
                                     (rate("tessera_scscf_untold_total"), "ends the HSS did not take")], "ops"),
            panel("From the HSS, and others", [(rate("tessera_scscf_profile_pushes_total", "", "outcome"), "profile push {{outcome}}"),
                                               (rate("tessera_scscf_other_requests_total", "", "status"), "other requests {{status}}"),
                                               (rate("tessera_scscf_draining_refusals_total"), "refused, draining"),
                                               (rate("tessera_scscf_unreadable_records_total"), "records not read back")], "ops"),
        ]),
        ("Cx", diameter("scscf") + [panel("Cx latency, by command", quantiles("tessera_cx_answer_seconds", 'job="scscf"', "command"), "s")]),
        ("SIP", sip("scscf")),
        ("DNS", dns("scscf")[:1]),
        ("Shell", shell("scscf")),
        ("Process", process("scscf")),
    ])


def hss():
    return board("tessera-hss", "Tessera: HSS", [
        ("Cx", [
            panel("Answered, by command and result", [(rate("tessera_hss_requests_total", "", "command, result"), "{{command}} {{result}}")],
                  "ops", stack=True),
            panel("Vectors", [(rate("tessera_hss_vectors_total"), "given out"),
                              (rate("tessera_hss_resynchronisations_total", "", "result"), "resynchronisation {{result}}")], "ops",
                  "wrong_mac_s: the card and the HSS have different keys."),
            panel("Pushes, by command and result", [(rate("tessera_hss_pushes_total", "", "command, result"), "{{command}} {{result}}")],
                  "ops", "RTR and PPR by the operator."),
        ]),
        ("Diameter", diameter("hss", is_server=True)),
        ("Shell", shell("hss")),
        ("Process", process("hss")),
    ])


def lte():
    return board("tessera-lte", "Tessera: LTE transport", [
        ("UEs", [
            panel("UEs attached", [("sum by (state) (tessera_lte_ues)", "{{state}}")]),
            panel("Attaches", [(rate("tessera_lte_attaches_total", "", "result"), "{{result}}"),
                               (rate("tessera_lte_detaches_total"), "detached")], "ops"),
            panel("Bearers", [("tessera_lte_bearers", "{{node}}"), (rate("tessera_lte_bearers_lost_total", "", "node"), "{{node}} lost")]),
            panel("Address pools", [("tessera_lte_pool_used", "IPv{{version}} used"), ("tessera_lte_pool_size", "IPv{{version}} size")]),
            panel("Programs", [("tessera_lte_programs", "on the radio socket")]),
        ]),
        ("Packets", [
            panel("Radio", [(rate("tessera_lte_radio_packets_total", "", "direction, outcome"), "{{direction}} {{outcome}}")], "pps"),
            panel("GTP-U packets", [(rate("tessera_lte_gtpu_packets_total", "", "node, interface, direction"),
                                     "{{node}} {{interface}} {{direction}}")], "pps"),
            panel("GTP-U octets", [(rate("tessera_lte_gtpu_octets_total", "", "node, interface, direction"),
                                    "{{node}} {{interface}} {{direction}}")], "Bps"),
            panel("GTP-U messages", [(rate("tessera_lte_gtpu_messages_total", "", "message, direction"), "{{message}} {{direction}}")], "pps",
                  "Echo, Error Indication, End Marker (TS 29.281 §7)."),
            panel("SGi", [(rate("tessera_lte_sgi_packets_total", "", "direction"), "{{direction}}")], "pps"),
            panel("In flight on the radio", [("tessera_lte_packets_in_flight", "packets")]),
            panel("Dropped", [(rate("tessera_lte_dropped_packets_total", "", "node, cause"), "{{node}} {{cause}}"),
                              (rate("tessera_lte_gtpu_malformed_total"), "GTP-U malformed"),
                              (rate("tessera_lte_paths_failed_total"), "paths failed"),
                              (rate("tessera_lte_radio_malformed_total"), "radio records refused"),
                              (rate("tessera_lte_unsent_total"), "not taken by the kernel")], "pps"),
        ]),
        ("Process", process("lte")),
    ])


def load():
    latency = "tessera_load_latency_seconds"
    return board("tessera-load", "Tessera: load test", [
        ("The generator", [
            stat("UEs registered", "sum(tessera_load_registered)", about="As the phones see it."),
            stat("Population", "sum(tessera_load_population)"),
            stat("Under way", "sum(tessera_load_in_flight)"),
            stat("Rate meant", "sum(tessera_load_target_per_second)", "ops"),
            stat("Run is valid", "min(tessera_load_valid)", about="0: the generator was the bottleneck, and the run says nothing of the core.",
                 steps=[(None, "red"), (1, "green")]),
            stat("Failed", 'sum(tessera_load_attempts_total{outcome="failure"}) or vector(0)', steps=GOOD_AT_ZERO),
        ]),
        ("Attempts", [
            panel("Begun and ended", [(rate("tessera_load_offered_total", "", "operation"), "{{operation}} begun"),
                                      (rate("tessera_load_attempts_total", "", "operation, outcome"), "{{operation}} {{outcome}}")], "ops"),
            panel("Failures, by cause", [(rate("tessera_load_attempts_total", 'outcome="failure"', "cause"), "{{cause}}"),
                                         (rate("tessera_load_unplaced_total", "", "operation"), "{{operation}}: no UE in that state")], "ops"),
            panel("Latency by step, p50", quantiles(latency, "", "step")[:1], "s", "From the intended start."),
            panel("Latency by step, p99", quantiles(latency, "", "step")[2:], "s"),
            panel("Lateness of the generator", quantiles("tessera_load_lateness_seconds"), "s",
                  "By how much arrivals began later than meant: the generator's own fault."),
            panel("Packets", [(rate("tessera_load_packets_total", "", "direction"), "{{direction}}"),
                              (rate("tessera_load_packets_lost_total", "", "direction"), "{{direction}} lost on this host")], "pps"),
        ]),
        ("What it costs", [
            panel("CPU, all programs", [("sum by (job) (rate(process_cpu_seconds_total[$__rate_interval]))", "{{job}}")], "percentunit", stack=True),
            panel("CPU per 1000 REGISTERs", [
                ("1000 * sum by (job) (rate(process_cpu_seconds_total[$__rate_interval])) / scalar(sum("
                 "rate(tessera_pcscf_register_answers_total[$__rate_interval])) > 0)", "{{job}}")], "s"),
            panel("Memory per UE", [("sum by (job) (process_resident_memory_bytes) / scalar(sum(tessera_pcscf_registrations) > 0)",
                                     "{{job}}")], "bytes"),
            panel("Latency of the core", quantiles("tessera_pcscf_register_seconds"), "s"),
            panel("Queues", [("tessera_shell_queue_length", "{{instance}}")]),
            panel("Loss on the radio", [(rate("tessera_lte_radio_packets_total", 'outcome!="delivered"', "direction, outcome"),
                                         "{{direction}} {{outcome}}")], "pps"),
        ]),
        ("Process", process("ue")[:2]),
    ])


BOARDS = {"overview": overview, "pcscf": pcscf, "icscf": icscf, "scscf": scscf, "hss": hss, "lte": lte, "load": load}


def main():
    is_check = sys.argv[1:] == ["--check"]
    HERE.mkdir(exist_ok=True)
    stale = []
    for name, make in BOARDS.items():
        path = HERE / f"{name}.json"
        text = json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        if is_check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not is_check:
            path.write_text(text)
    if stale:
        sys.exit(f"not what dashboards.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
