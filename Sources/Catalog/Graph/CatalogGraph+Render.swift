import Core

extension CatalogGraph {
  package enum Format: String, Sendable, CaseIterable {
    case tree, dot, mermaid, json
  }

  /// The graph as text: services, their stores, and the groups these are held in. Sorted, so that it can be compared.
  package func render(_ format: Format) -> String {
    switch format {
    case .tree: tree()
    case .dot: dot()
    case .mermaid: mermaid()
    case .json: json()
    }
  }

  // MARK: Tree

  /// Each service nobody depends on, with what it needs below it; what was shown in full before ends in `…`.
  private func tree() -> String {
    var lines: [String] = []
    var shown: Set<Int> = []

    // Depth is the length of a chain of services, so the work is kept in a list, not on the call stack.
    var open: [(index: Int, lead: String, branch: String, under: String)] = []
    for root in catalog.services.indices where !isUsed(root) {
      open.append((root, "", "", ""))
      while let item = open.popLast() {
        let service = catalog.services[item.index]
        let needs = dependencies(item.index)
        let isNew = shown.insert(item.index).inserted
        let tail = !isNew && !needs.isEmpty ? " …" : ""
        lines.append("\(item.lead)\(item.branch)\(service.name) (\(service.tier.rawValue))\(tail)")
        guard isNew else { continue }
        let lead = item.lead + item.under
        for store in service.stores {
          guard let store = catalog.store(store) else { continue }
          let group = groups[store.name].map { ", group \($0)" } ?? ""
          lines.append("\(lead)\(needs.isEmpty ? "   " : "│  ")◦ \(store.name) [\(store.driver)\(group)]")
        }
        for (position, need) in needs.enumerated().reversed() {
          let isLast = position == needs.count - 1
          open.append((need, lead, isLast ? "└─ " : "├─ ", isLast ? "   " : "│  "))
        }
      }
    }
    return lines.joined(separator: "\n") + (lines.isEmpty ? "" : "\n")
  }

  private var groups: [StoreName: GroupName] {
    var result: [StoreName: GroupName] = [:]
    for group in catalog.groups { for store in group.stores { result[store] = group.name } }
    return result
  }

  // MARK: Graphviz

  /// For `dot -Tsvg`; groups are boxes around their stores.
  private func dot() -> String {
    var lines = ["digraph catalog {", "  rankdir=LR;", "  node [fontname=\"sans-serif\"];"]
    for service in catalog.services {
      lines.append(
        "  \"service/\(service.name)\" [label=\"\(service.name)\\n\(service.tier.rawValue)\", shape=box, style=rounded];"
      )
    }
    let grouped = groups
    func node(_ store: DataStore) -> String {
      "\"store/\(store.name)\" [label=\"\(store.name)\\n\(store.driver)\", shape=cylinder];"
    }
    for group in catalog.groups {
      lines.append("  subgraph \"cluster_\(group.name)\" {")
      lines.append("    label=\"\(group.name)\";")
      for store in group.stores.compactMap(catalog.store) { lines.append("    " + node(store)) }
      lines.append("  }")
    }
    for store in catalog.stores where grouped[store.name] == nil { lines.append("  " + node(store)) }
    for service in catalog.services {
      for need in service.dependsOn { lines.append("  \"service/\(service.name)\" -> \"service/\(need)\";") }
      for store in service.stores {
        lines.append("  \"service/\(service.name)\" -> \"store/\(store)\" [arrowhead=none, style=dashed];")
      }
    }
    for store in catalog.stores {
      for need in store.dependsOn { lines.append("  \"store/\(store.name)\" -> \"store/\(need)\";") }
    }
    return (lines + ["}"]).joined(separator: "\n") + "\n"
  }

  // MARK: Mermaid

  /// For Markdown pages that draw it.
  private func mermaid() -> String {
    var lines = ["graph LR"]
    for (index, service) in catalog.services.enumerated() { lines.append("  s\(index)(\"\(service.name)\")") }
    var numbers: [StoreName: Int] = [:]
    for (index, store) in catalog.stores.enumerated() { numbers[store.name] = index }
    let grouped = groups
    for (index, group) in catalog.groups.enumerated() {
      lines.append("  subgraph g\(index)[\"\(group.name)\"]")
      for store in group.stores { if let number = numbers[store] { lines.append("    d\(number)[(\"\(store)\")]") } }
      lines.append("  end")
    }
    for (index, store) in catalog.stores.enumerated() where grouped[store.name] == nil {
      lines.append("  d\(index)[(\"\(store.name)\")]")
    }
    for (index, service) in catalog.services.enumerated() {
      for need in dependencies(index) { lines.append("  s\(index) --> s\(need)") }
      for store in service.stores { if let number = numbers[store] { lines.append("  s\(index) -.- d\(number)") } }
    }
    for (index, store) in catalog.stores.enumerated() {
      for need in store.dependsOn { if let number = numbers[need] { lines.append("  d\(index) --> d\(number)") } }
    }
    return lines.joined(separator: "\n") + "\n"
  }

  // MARK: JSON

  private struct Drawing: Encodable {
    struct Service: Encodable {
      var name: ServiceName
      var tier: Tier
      var wave: Int
      var dependsOn: [ServiceName]
      var dependents: [ServiceName]
      var stores: [StoreName]
    }
    struct Store: Encodable {
      var name: StoreName
      var service: ServiceName
      var driver: DriverName
      var group: GroupName?
      var dependsOn: [StoreName]
    }
    struct Group: Encodable {
      var name: GroupName
      var stores: [StoreName]
      var isImplicit: Bool
    }
    var services: [Service]
    var stores: [Store]
    var groups: [Group]
    var criticalPath: [ServiceName]
  }

  private func json() -> String {
    let grouped = groups
    let drawing = Drawing(
      services: catalog.services.map {
        .init(
          name: $0.name, tier: $0.tier, wave: wave(of: $0.name) ?? 0, dependsOn: $0.dependsOn,
          dependents: dependents(of: $0.name), stores: $0.stores)
      },
      stores: catalog.stores.map {
        .init(name: $0.name, service: $0.service, driver: $0.driver, group: grouped[$0.name], dependsOn: $0.dependsOn)
      },
      groups: catalog.groups.map { .init(name: $0.name, stores: $0.stores, isImplicit: $0.isImplicit) },
      criticalPath: criticalPath())
    // Names and numbers always have a spelling in JSON.
    return ((try? CanonicalJSON.text(drawing, pretty: true)) ?? "{}") + "\n"
  }
}
