/// What `salvor init` writes.
package enum FirstCatalog {
  /// - Parameters: absolute paths.
  package static func text(repository: String, passwordFile: String, sqlite: String) -> String {
    """
    # yaml-language-server: $schema=./docs/reference/catalog.schema.json
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: main}
    spec: {location: "local:\(repository)", password: "file:\(passwordFile)"}
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: app}
    spec:
      objectives: {rpo: 1h, rto: 5m}
      stores:
        - {name: app-db, driver: sqlite, options: {path: "\(sqlite)"}}

    """
  }
}
