import Core

@testable import Catalog

/// The drivers the examples are written for.
let drivers: [DriverName: [OptionSchema]] = [
  "files": [
    OptionSchema("path", .path, required: true, help: "The directory."),
    OptionSchema("exclude", .strings, help: "Left out."),
  ],
  "postgresql": [
    OptionSchema("host", .string, default: "127.0.0.1", help: "Where it listens."),
    OptionSchema("port", .integer, default: "5432", help: "Where it listens."),
    OptionSchema("database", .string, required: true, help: "The database."),
    OptionSchema("password", .secret, help: "Of the backup user."),
    OptionSchema("dataDirectory", .path, help: "Where it keeps its files."),
    OptionSchema("patience", .duration, help: "How long to wait."),
    OptionSchema("tls", .boolean, help: "Encrypt the connection."),
  ],
  "redis": [OptionSchema("port", .integer, required: true, help: "Where it listens.")],
]

func resolve(_ text: String) -> Resolution {
  Catalog.resolve([SourceFile(path: "catalog.yaml", text: text)], drivers: drivers)
}

let repository = """
  apiVersion: salvor.dev/v1
  kind: Repository
  metadata: {name: main}
  spec: {location: local:/srv/backup, password: file:/run/secrets/repo}

  """

/// A service in few words, for tests about one field.
func service(_ name: String, _ spec: String = "{}") -> String {
  """
  ---
  apiVersion: salvor.dev/v1
  kind: Service
  metadata: {name: \(name)}
  spec: \(spec)

  """
}

/// Uses every field there is.
let bank = """
  apiVersion: salvor.dev/v1
  kind: Repository
  metadata: {name: main, labels: {site: a, "a10": x, a9: "quote \\" and \\n line / slash é"}}
  spec: {location: /srv/backup//x/../main, password: "command:pass show salvor"}
  ---
  apiVersion: salvor.dev/v1
  kind: Service
  metadata:
    name: ledger
    labels: {team: core, a10: x, a9: y, "sl/ash": "tab\\tquote\\" é \\x7f", empty: ""}
  spec:
    owner: core@bank.example
    tier: critical
    domain: money
    impact: nobody can pay
    approvers: [head of payments, "duty manager"]
    escalation:
      - {who: on call, how: "+41 1 234"}
      - {after: 15m, who: head of payments}
    triggers: ["alert <LedgerDown>"]
    completion: [the morning's totals agree, {check: the page opens, run: "test -e /x"}]
    objectives: {rpo: 1m, rto: 90s}
    stores:
      - name: ledger-db
        driver: postgresql
        options: {database: ledger, port: 5433, password: env:PGPASSWORD, tls: true, patience: 1m30s}
        start: {command: pg_ctl start, user: postgres, workingDirectory: /var/lib/../tmp, timeout: 2m, env: {A: 1, B: {secret: "file:/x"}}}
        stop: [pg_ctl, stop]
      - name: ledger-cache
        redis: {port: 6379}
        dependsOn: [ledger-db]
    start: systemctl start "the ledger"
    stop: {command: [systemctl, stop, ledger]}
    ready:
      - tcp: "[::1]:8080"
      - http: http://127.0.0.1:8080/health
        interval: 1s
        retries: 3
      - http: {url: "https://ledger/health", status: 204}
      - exec: test -e /run/ledger
      - sql: {store: ledger-db, query: select 1}
        timeout: 10s
    validators:
      - {name: balanced, sql: {store: ledger-db, query: "select sum(amount) from entries"}, equals: 0}
      - {name: no-negative, sql: {store: ledger-db, query: select 1 from accounts where balance < 0}, empty: true}
      - {name: three, sql: {store: ledger-db, query: select 1}, rows: 3}
      - {name: page, http: "http://127.0.0.1/", status: 301, timeout: 5s}
      - {name: tool, exec: ledger-check}
      - {name: says, exec: [ledger-check, -v], matches: "^ok$"}
  ---
  apiVersion: salvor.dev/v1
  kind: Service
  metadata: {name: statements}
  spec:
    tier: high
    dependsOn: [ledger]
    objectives: {rto: 5m}
    stores:
      - name: statement-files
        files: {path: /srv/statements, exclude: ["*.tmp", cache]}
        repository: main
  ---
  apiVersion: salvor.dev/v1
  kind: ConsistencyGroup
  metadata: {name: money}
  spec: {stores: [ledger-db, ledger-cache], services: [statements], holdBudget: 250ms, onOverBudget: record}
  ---
  apiVersion: salvor.dev/v1
  kind: BackupPolicy
  metadata: {name: often}
  spec:
    schedule: every 1m
    retention: {keepLast: 10, keepHourly: 24, keepDaily: 7, keepWeekly: 4, keepMonthly: 12, keepYearly: 2, keepWithin: 2d}
    services: [ledger]
    stores: [statement-files]
    holdBudget: 200ms
  ---
  apiVersion: salvor.dev/v1
  kind: BackupPolicy
  metadata: {name: nightly}
  spec: {repository: main, schedule: "15 2 * * 1-5"}
  ---
  apiVersion: salvor.dev/v1
  kind: Invariant
  metadata: {name: statements-have-files}
  spec:
    description: Every statement the ledger knows has its file.
    references:
      from: {store: ledger-db, query: select file from statements}
      to: {store: statement-files, query: "*.pdf"}
      exact: true
  ---
  apiVersion: salvor.dev/v1
  kind: Invariant
  metadata: {name: cache-agrees}
  spec:
    severity: warning
    equal:
      left: {store: ledger-db, query: select id from accounts}
      right: {store: ledger-cache, query: KEYS account:*}
  ---
  apiVersion: salvor.dev/v1
  kind: Invariant
  metadata: {name: zero-sum}
  spec: {constant: {store: ledger-db, query: select sum(amount) from entries, equals: 0}}

  """
