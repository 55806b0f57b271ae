// Ranks search results: pages with the searched words in their title first, pages about the project's history last.
var Scorer = {
  score: ([page, title, , , score]) => {
    const query = new URLSearchParams(location.search).get("q") ?? "";
    const inTitle = query.toLowerCase().split(/\s+/).filter((word) => word && title.toLowerCase().includes(word));
    const aboutTheProject = /^(architecture|benchmarks|changelogs|contributing|migrating)/.test(page);
    return score + 5 * inTitle.length - (aboutTheProject ? 20 : 0);
  },
  // Sphinx's own numbers; it takes all or none from this file.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
