import Catalog
import Core
import Planning

let drivers: [DriverName: [OptionSchema]] = [
  "files": [OptionSchema("path", .path, required: true, help: "The directory.")]
]

/// A catalog in a few words: each service with what it depends on and its stores.
func catalog(_ services: [(name: String, needs: [String], stores: [String])], more: String = "") throws -> Catalog {
  var text = """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: /srv/backup, password: file:/run/secrets/repo}

    """
  for service in services {
    let stores = service.stores.map { "{name: \($0), files: {path: /srv/data/\($0)}}" }.joined(separator: ", ")
    text += """
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: \(service.name)}
      spec:
        objectives: {rto: 100s}
        stop: systemctl stop \(service.name)
        dependsOn: [\(service.needs.joined(separator: ", "))]
        stores: [\(stores)]

      """
  }
  return try Catalog.resolve([SourceFile(path: "c.yaml", text: text + more)], drivers: drivers).get()
}

func invariant(_ name: String, _ a: String, _ b: String) -> String {
  """
  ---
  apiVersion: salvor.dev/v1
  kind: Invariant
  metadata: {name: \(name)}
  spec: {equal: {left: {store: \(a), query: x}, right: {store: \(b), query: y}}}

  """
}

/// A point that holds everything.
func point(
  _ catalog: Catalog, id: String = "p1", at seconds: Int64 = 1_800_000_000, sizeBytes: Int64? = 1000
) -> PointFacts {
  PointFacts(
    id: id, time: Timestamp(seconds: seconds),
    stores: Dictionary(uniqueKeysWithValues: catalog.stores.map { ($0.name, StoreFacts(.held, sizeBytes: sizeBytes)) }))
}

let noon = Timestamp(seconds: 1_700_000_000)
