import Core
import Testing

@testable import Catalog

@Suite("Large catalogs")
struct ScaleTests {
  @Test func `the made-up catalog has the size asked for, and the same seed makes the same`() throws {
    let synthetic = SyntheticCatalog(services: 500, edgesPerService: 4)
    let resolution = Catalog.resolve(synthetic.sources(files: 7), drivers: SyntheticCatalog.drivers)
    #expect(resolution.errors == [])
    let catalog = try resolution.get()
    #expect(catalog.services.count == 500 && catalog.stores.count == 500 && catalog.groups.count == 50)
    #expect(catalog.services.reduce(0) { $0 + $1.dependsOn.count } == 1990)
    #expect(try Catalog.resolve(synthetic.sources(), drivers: SyntheticCatalog.drivers).get().digest == catalog.digest)
  }

  @Test func `a chain as long as the catalog overflows no stack`() throws {
    var text = repository + service("s0")
    for index in 1..<2000 { text += service("s\(index)", "{dependsOn: [s\(index - 1)]}") }
    let graph = CatalogGraph(try resolve(text).get())
    #expect(graph.waves.count == 2000)
    #expect(graph.criticalPath().count == 2000)
    let circle = resolve(
      text.replacing("metadata: {name: s0}\nspec: {}", with: "metadata: {name: s0}\nspec: {dependsOn: [s1999]}"))
    #expect(circle.errors.map(\.code) == ["CATALOG-119"])
  }
}
