import Core

/// What came of reading a catalog's files.
package struct Resolution: Sendable {
  /// `nil` if there is any error.
  package let catalog: Catalog?
  /// Everything there is to say, sorted by file and place.
  package let diagnostics: [Diagnostic]

  package var errors: [Diagnostic] { diagnostics.filter { $0.severity == .error } }

  /// - Throws: ``CatalogError/invalid(_:)`` with all diagnostics.
  package func get() throws(CatalogError) -> Catalog {
    guard let catalog else { throw .invalid(diagnostics) }
    return catalog
  }
}

extension Catalog {
  /// Reads, checks and resolves a catalog; every problem is found in one pass.
  ///
  /// Pure: opens no file, resolves no secret. O(*n* log *n*) in what is declared.
  ///
  /// - Parameters:
  ///   - files: YAML, any number of documents each; their order means nothing.
  ///   - drivers: The options each driver understands, from the registry.
  package static func resolve(_ files: [SourceFile], drivers: [DriverName: [OptionSchema]]) -> Resolution {
    let manifests = Manifests(files.sorted { $0.path < $1.path }, drivers: drivers)
    var resolver = Resolver(manifests)
    let catalog = resolver.catalog()
    let diagnostics = (manifests.diagnostics + resolver.diagnostics).sorted {
      ($0.file, $0.line, $0.column, $0.code, $0.message) < ($1.file, $1.line, $1.column, $1.code, $1.message)
    }
    let isBroken = diagnostics.contains { $0.severity == .error }
    return Resolution(catalog: isBroken ? nil : catalog, diagnostics: diagnostics)
  }
}
