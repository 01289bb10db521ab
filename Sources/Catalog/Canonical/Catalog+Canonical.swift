import Core

extension Catalog {
  /// What ``digest`` covers: `CanonicalJSON` of the catalog.
  package var canonicalBytes: [UInt8] {
    var writer = CanonicalWriter()
    write(to: &writer)
    return writer.bytes
  }

  private func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      // Left out where there are none: catalogs from before keep their digests.
      if !domains.isEmpty { writer.member("domains") { $0.array(domains) { $1.write(to: &$0) } } }
      if !drills.isEmpty { writer.member("drills") { $0.array(drills) { $1.write(to: &$0) } } }
      if !failovers.isEmpty { writer.member("failovers") { $0.array(failovers) { $0.encoded($1) } } }
      writer.member("groups") { $0.array(groups) { $1.write(to: &$0) } }
      writer.member("invariants") { $0.array(invariants) { $1.write(to: &$0) } }
      if !metrics.isEmpty { writer.member("metrics") { $0.array(metrics) { $0.encoded($1) } } }
      writer.member("policies") { $0.array(policies) { $1.write(to: &$0) } }
      if !reconciliations.isEmpty {
        writer.member("reconciliations") { $0.array(reconciliations) { $1.write(to: &$0) } }
      }
      writer.member("repositories") { $0.array(repositories) { $1.write(to: &$0) } }
      if !rollouts.isEmpty { writer.member("rollouts") { $0.array(rollouts) { $0.encoded($1) } } }
      if !routes.isEmpty { writer.member("routes") { $0.array(routes) { $0.encoded($1) } } }
      writer.member("services") { $0.array(services) { $1.write(to: &$0) } }
      writer.member("stores") { $0.array(stores) { $1.write(to: &$0) } }
      if !workflows.isEmpty { writer.member("workflows") { $0.array(workflows) { $0.encoded($1) } } }
    }
  }
}

extension Domain {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("duties") { duties.write(to: &$0) }
      writer.member("name", name.text)
      writer.member("owner", owner)
    }
  }
}

extension Duties {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("approvers") { $0.array(approvers) { $0.text($1) } }
      writer.member("completion") { writer in
        writer.array(completion) { writer, completion in
          writer.object { writer in
            writer.member("check", completion.check)
            if let run = completion.run { writer.member("run") { run.write(to: &$0) } }
          }
        }
      }
      writer.member("escalation") { writer in
        writer.array(escalation) { writer, call in
          writer.object { writer in
            writer.member("after", call.after)
            writer.member("how", call.how)
            writer.member("who", call.who)
          }
        }
      }
      writer.member("impact", impact)
      writer.member("triggers") { $0.array(triggers) { $0.text($1) } }
    }
  }
}

extension Drill {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("deadline", deadline)
      writer.member("faults") { writer in
        writer.array(faults) { writer, fault in
          writer.object { writer in
            writer.member("kind", fault.kind.rawValue)
            if let run = fault.run { writer.member("run") { run.write(to: &$0) } }
            writer.member("store", fault.store?.text)
          }
        }
      }
      writer.member("jitter", jitter)
      writer.member("level", level.rawValue)
      writer.member("name", name.text)
      writer.member("places") { $0.array(places) { $0.text($1) } }
      writer.member("point", point.rawValue)
      writer.member("proves", proves)
      writer.member("schedule", schedule?.description)
      writer.member("services", services)
      writer.member("stores", stores)
      writer.member("window", window)
    }
  }
}

extension ReconciliationRule {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("compensations") { writer in
        let commands = Dictionary(compensations.map { ($0.key.rawValue, $0.value) }, uniquingKeysWith: { a, _ in a })
        writer.dictionary(commands) { $1.write(to: &$0) }
      }
      writer.member("description", description)
      writer.member("isExact", isExact)
      writer.member("isLink", isLink)
      writer.member("key") { $0.array(key) { $0.text($1) } }
      writer.member("left") { left.write(to: &$0) }
      writer.member("name", name.text)
      writer.member("right") { right.write(to: &$0) }
      writer.member("skew", skew)
      writer.member("time", time)
      writer.member("truth", truth.rawValue)
    }
  }
}

extension ReconciliationRule.Side {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      if let columns { writer.member("columns") { $0.array(columns) { $0.text($1) } } }
      writer.member("entry", entry)
      writer.member("field", field)
      writer.member("file", file)
      writer.member("query", query)
      writer.member("store", store.text)
      writer.member("table", table)
      writer.member("value", value)
    }
  }
}

extension ConsistencyGroup {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("holdBudget", holdBudget)
      writer.member("isImplicit", isImplicit)
      writer.member("name", name.text)
      writer.member("onOverBudget", onOverBudget.rawValue)
      writer.member("stores", stores)
    }
  }
}

extension Invariant {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("description", description)
      writer.member("name", name.text)
      writer.member("rule") { $0.object { rule.write(to: &$0) } }
      writer.member("severity", severity.rawValue)
    }
  }
}

extension Invariant.Rule {
  fileprivate func write(to writer: inout CanonicalWriter) {
    switch self {
    case .references(let from, let to, let exact):
      writer.member("references") { writer in
        writer.object { writer in
          writer.member("exact", exact)
          writer.member("from") { from.write(to: &$0) }
          writer.member("to") { to.write(to: &$0) }
        }
      }
    case .equal(let left, let right):
      writer.member("equal") { writer in
        writer.object { writer in
          writer.member("left") { left.write(to: &$0) }
          writer.member("right") { right.write(to: &$0) }
        }
      }
    case .constant(let query, let equals):
      writer.member("constant") { writer in
        writer.object { writer in
          writer.member("_0") { query.write(to: &$0) }
          writer.member("equals", equals)
        }
      }
    }
  }
}

extension StoreQuery {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in members(&writer) }
  }

  private func members(_ writer: inout CanonicalWriter) {
    writer.member("query", query)
    writer.member("store", store.text)
  }
}

extension BackupPolicy {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("holdBudget", holdBudget)
      writer.member("name", name.text)
      writer.member("repository", repository.text)
      writer.member("retention") { writer in
        writer.object { writer in
          writer.member("keepDaily", retention.keepDaily)
          writer.member("keepHourly", retention.keepHourly)
          writer.member("keepLast", retention.keepLast)
          writer.member("keepMonthly", retention.keepMonthly)
          writer.member("keepWeekly", retention.keepWeekly)
          writer.member("keepWithin", retention.keepWithin)
          writer.member("keepYearly", retention.keepYearly)
        }
      }
      writer.member("schedule", schedule?.description)
      writer.member("stores", stores)
    }
  }
}

extension Repository {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("location", location.description)
      // Left out where there are none: catalogs from before keep their digests.
      if let mirrors { writer.member("mirrors") { $0.array(mirrors) { $0.text($1.description) } } }
      writer.member("name", name.text)
      writer.member("password", password.description)
    }
  }
}

extension DataStore {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("dependsOn", dependsOn)
      writer.member("driver", driver.text)
      writer.member("name", name.text)
      writer.member("options") { $0.dictionary(options) { $0.value($1) } }
      writer.member("repository", repository.text)
      writer.member("service", service.text)
      if let start { writer.member("start") { start.write(to: &$0) } }
      if let stop { writer.member("stop") { stop.write(to: &$0) } }
    }
  }
}

extension Service {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("dependsOn", dependsOn)
      writer.member("domain", domain)
      if let duties { writer.member("duties") { duties.write(to: &$0) } }
      writer.member("labels") { $0.dictionary(labels) { $0.text($1) } }
      writer.member("name", name.text)
      writer.member("objectives") { writer in
        writer.object { writer in
          writer.member("rpo", objectives.rpo)
          writer.member("rto", objectives.rto)
        }
      }
      writer.member("owner", owner)
      writer.member("ready") { $0.array(ready) { $1.write(to: &$0) } }
      if let schema { writer.member("schema") { $0.array(schema) { $0.encoded($1) } } }
      if let start { writer.member("start") { start.write(to: &$0) } }
      if let stop { writer.member("stop") { stop.write(to: &$0) } }
      writer.member("stores", stores)
      writer.member("tier", tier.rawValue)
      writer.member("validators") { $0.array(validators) { $1.write(to: &$0) } }
    }
  }
}

extension Command {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("environment") { writer in
        writer.dictionary(environment) { writer, value in
          writer.object { writer in
            switch value {
            case .text(let text): writer.member("text", text)
            case .secret(let reference): writer.member("secret", reference.description)
            }
          }
        }
      }
      writer.member("timeout", timeout)
      writer.member("user", user)
      writer.member("words") { $0.array(words) { $0.text($1) } }
      writer.member("workingDirectory", workingDirectory)
    }
  }
}

extension Probe {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("interval", interval)
      writer.member("question") { $0.object { write(question, to: &$0) } }
      writer.member("retries", retries)
      writer.member("timeout", timeout)
    }
  }

  private func write(_ question: Question, to writer: inout CanonicalWriter) {
    switch question {
    case .exec(let command): writer.member("exec") { $0.object { $0.member("_0") { command.write(to: &$0) } } }
    case .tcp(let host, let port):
      writer.member("tcp") { writer in
        writer.object { writer in
          writer.member("host", host)
          writer.member("port", Int(port))
        }
      }
    case .http(let url, let status):
      writer.member("http") { writer in
        writer.object { writer in
          writer.member("status", status)
          writer.member("url", url)
        }
      }
    case .sql(let store, let query):
      writer.member("sql") { StoreQuery(store: store, query: query).write(to: &$0) }
    }
  }
}

extension Validator {
  fileprivate func write(to writer: inout CanonicalWriter) {
    writer.object { writer in
      writer.member("expectation") { $0.object { write(expectation, to: &$0) } }
      writer.member("name", name.text)
      writer.member("question") { $0.object { write(question, to: &$0) } }
      writer.member("timeout", timeout)
    }
  }

  private func write(_ expectation: Expectation, to writer: inout CanonicalWriter) {
    switch expectation {
    case .equals(let text): writer.member("equals") { $0.object { $0.member("_0", text) } }
    case .rows(let count): writer.member("rows") { $0.object { $0.member("_0", count) } }
    case .empty: writer.member("empty") { $0.object { _ in } }
    case .status(let status): writer.member("status") { $0.object { $0.member("_0", status) } }
    case .matches(let pattern): writer.member("matches") { $0.object { $0.member("_0", pattern) } }
    }
  }

  private func write(_ question: Question, to writer: inout CanonicalWriter) {
    switch question {
    case .sql(let store, let query): writer.member("sql") { StoreQuery(store: store, query: query).write(to: &$0) }
    case .exec(let command): writer.member("exec") { $0.object { $0.member("_0") { command.write(to: &$0) } } }
    case .http(let url): writer.member("http") { $0.object { $0.member("url", url) } }
    case .workflow(let name): writer.member("workflow") { $0.object { $0.member("_0", name.text) } }
    }
  }
}
